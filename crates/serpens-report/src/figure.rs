//! The kinds of figures that a report can show among its charts.

use serde::{Deserialize, Serialize};

use crate::svg::Drawing;
use crate::theme::{Inks, LIGHT};
use crate::{ConfusionMatrix, Form, LineChart, Sound};

/// A figure; as JSON the fields of its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Figure {
    /// Curves: losses, accuracies, throughputs, forecasts.
    Lines(LineChart),
    /// What was answered for what.
    Confusion(ConfusionMatrix),
    /// What is heard.
    Sound(Sound),
}

impl From<LineChart> for Figure {
    fn from(chart: LineChart) -> Self {
        Self::Lines(chart)
    }
}

impl From<ConfusionMatrix> for Figure {
    fn from(matrix: ConfusionMatrix) -> Self {
        Self::Confusion(matrix)
    }
}

impl From<Sound> for Figure {
    fn from(sound: Sound) -> Self {
        Self::Sound(sound)
    }
}

impl Figure {
    /// The figure as an SVG file of its own.
    pub fn to_svg(&self, form: Form) -> String {
        let (title, caption, drawing) = self.draw(form.width(), &LIGHT);
        drawing.into_file(form, title, caption)
    }

    /// Its title, its caption, and what is drawn.
    pub(super) fn draw(&self, width: f64, inks: &Inks) -> (&str, &str, Drawing) {
        match self {
            Self::Lines(it) => (&it.title, &it.caption, it.draw(width, inks)),
            Self::Confusion(it) => (&it.title, &it.caption, it.draw(width, inks)),
            Self::Sound(it) => (&it.title, &it.caption, it.draw(width, inks)),
        }
    }
}
