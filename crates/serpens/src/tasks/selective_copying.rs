//! Selective copying: repeat the data, leave out the noise.

use std::sync::Arc;

use serpens_data::{Numbers, SelectiveCopying, Source};
use serpens_report::Table;
use serpens_train::evaluate;

use super::results::{Results, share};
use super::selection::Sample;
use super::trained::Trained;
use super::{OpenTask, READ_LENGTH, Task, TaskSettings, TestConfig};
use crate::Result;
use crate::output::OutputMode;
use crate::progress::Meter;

pub(super) use serpens_data::SelectiveCopyingConfig;

impl TaskSettings for SelectiveCopyingConfig {
    fn set_seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    fn largest_batch(&self) -> [usize; 2] {
        [self.batch, self.length.saturating_add(self.data_tokens)]
    }

    fn sample(&self) -> Result<Option<Sample>> {
        let task = SelectiveCopying::new(self.clone())?;
        let batch = task.evaluation_batch(0);
        let ids = batch.inputs[..batch.length].to_vec();
        let query = task.query();
        let is_data = |id: u32| id != SelectiveCopying::NOISE && id != query;
        let name = |id: &u32| match *id {
            SelectiveCopying::NOISE => "·".to_owned(),
            id if id == query => "?".to_owned(),
            id => id.to_string(),
        };
        Ok(Some(Sample {
            names: ids.iter().map(name).collect(),
            highlight: ids.iter().map(|&id| is_data(id)).collect(),
            inputs: Numbers::Ids(ids),
            about: "a selective-copying sequence (· is noise, ? asks for the next data token)"
                .into(),
        }))
    }

    fn open(&self, _seed: u64, tests: &TestConfig) -> Result<OpenTask> {
        Ok(OpenTask::Writes(Box::new(Copying {
            data: SelectiveCopying::new(self.clone())?,
            batches: tests.samples as u64,
            read: self.largest_batch().iter().product(),
        })))
    }
}

struct Copying {
    data: SelectiveCopying,
    /// How many batches models are tested on.
    batches: u64,
    /// Positions of each.
    read: usize,
}

impl Task for Copying {
    fn head(&self) {}

    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.data.clone())
    }

    fn test(&self, trained: &[Trained], mode: OutputMode) -> Result<Results> {
        let table = Table {
            title: "Accuracy on new sequences".into(),
            header: vec!["model".into(), "accuracy".into()],
            rows: Vec::new(),
            caption: "The share of the data tokens that are repeated in their order, and its 95 % interval.".into(),
        };
        Results::one_each(trained, table, None, "Answers right", |trained| {
            let batches = (0..self.batches).map(|index| Ok(self.data.evaluation_batch(index)));
            let name = format!("{}, test", trained.name);
            let mut meter = Meter::new(mode, name, self.batches as usize * self.read);
            let watch = &mut |done| meter.at(done);
            let totals = evaluate::answers(&trained.model, batches, READ_LENGTH, watch)?;
            Ok(share(&totals).to_string())
        })
    }
}
