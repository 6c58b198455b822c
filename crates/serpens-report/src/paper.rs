//! From a figure's SVG to PNG and PDF, for papers; with the feature `paper`.

use std::sync::LazyLock;

use krilla::error::KrillaError;
use krilla::geom::Size;
use krilla::page::PageSettings;
use krilla_svg::{SurfaceExt, SvgSettings};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::fontdb::FaceInfo;
use resvg::usvg::{self, Options, Tree};

/// Units of a PDF in an inch.
const POINTS: f32 = 72.0;
/// Pixels of a PNG in an inch.
const PIXELS: f32 = 300.0;
/// Faces that have letters without serifs for most of what is written, where those that a figure names are not there.
const SANS: [&str; 4] = ["DejaVu Sans", "Noto Sans", "Helvetica", "Verdana"];

/// Why a figure cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PaperError {
    /// There are no letters to set the figure's text with.
    #[error("no font is installed here; install one, such as DejaVu Sans, or take svg")]
    NoFont,
    /// The figure is no SVG.
    #[error("the figure cannot be read: {0}")]
    Svg(#[from] usvg::Error),
    /// The figure has no size, or one that no memory holds.
    #[error("a figure of {width} × {height} points cannot be drawn; take svg")]
    Size {
        /// Its width.
        width: f32,
        /// Its height.
        height: f32,
    },
    /// The PDF cannot be made.
    #[error("the figure does not become a PDF ({0:?}); take svg")]
    Pdf(KrillaError),
}

/// The fonts of this system, and the units of a paper.
static OPTIONS: LazyLock<Option<Options<'static>>> = LazyLock::new(|| {
    let mut options = Options {
        dpi: POINTS,
        ..Options::default()
    };
    let fonts = options.fontdb_mut();
    fonts.load_system_fonts();
    let first = |wanted: &dyn Fn(&FaceInfo) -> bool| {
        let face = fonts.faces().find(|face| wanted(face))?;
        Some(face.families.first()?.0.clone())
    };
    let named = |name: &&str| first(&|face| face.families.iter().any(|(own, _)| own == *name));
    let sans = SANS.iter().find_map(named).or_else(|| first(&|_| true))?;
    let mono = first(&|face| face.monospaced).unwrap_or_else(|| sans.clone());
    fonts.set_sans_serif_family(sans);
    fonts.set_monospace_family(mono);
    Some(options)
});

fn read(svg: &str) -> Result<Tree, PaperError> {
    let options = OPTIONS.as_ref().ok_or(PaperError::NoFont)?;
    Ok(Tree::from_str(svg, options)?)
}

/// A figure in pixels, 300 to an inch, on white.
///
/// # Errors
/// A text that is no SVG, or one too large to draw; a system without fonts.
pub fn to_png(svg: &str) -> Result<Vec<u8>, PaperError> {
    let (tree, scale) = (read(svg)?, PIXELS / POINTS);
    let [width, height] = [tree.size().width(), tree.size().height()];
    let too_large = || PaperError::Size { width, height };
    let [wide, high] = [width, height].map(|points| (points * scale).ceil() as u32);
    let mut pixels = Pixmap::new(wide, high).ok_or_else(too_large)?;
    pixels.fill(Color::WHITE);
    let mut all = pixels.as_mut();
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut all);
    pixels.encode_png().map_err(|_| too_large())
}

/// A figure as the one page of a PDF, its fonts embedded.
///
/// # Errors
/// A text that is no SVG, or fonts that cannot be embedded; a system without fonts.
pub fn to_pdf(svg: &str) -> Result<Vec<u8>, PaperError> {
    let tree = read(svg)?;
    let [width, height] = [tree.size().width(), tree.size().height()];
    let size = Size::from_wh(width, height).ok_or(PaperError::Size { width, height })?;
    let mut document = krilla::Document::new();
    let mut page = document.start_page_with(PageSettings::new(size));
    let mut surface = page.surface();
    surface.draw_svg(&tree, size, SvgSettings::default());
    surface.finish();
    page.finish();
    document.finish().map_err(PaperError::Pdf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Form, LineChart};

    #[test]
    fn a_figure_has_its_inches() {
        let svg = LineChart::default().to_svg(Form::Paper(3.3));
        let png = to_png(&svg).expect("a machine for development has fonts");
        let width = u32::from_be_bytes(png[16..20].try_into().unwrap());
        assert_eq!((&png[1..4], width), (&b"PNG"[..], 990));
        let pdf = to_pdf(&svg).unwrap();
        let text = String::from_utf8_lossy(&pdf);
        assert!(
            text.starts_with("%PDF") && text.contains("/MediaBox [0 0 237.6 "),
            "{text}"
        );
        assert!(to_pdf("<svg").is_err() && to_png("").is_err());
    }
}
