//! Drawings as PNG (feature `png`), through resvg. Texts need a font of the machine.

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};
use sim::error::{Error, Result};

/// Families that are taken first, where they are there.
const FAMILIES: [&str; 5] = ["DejaVu Sans", "Liberation Sans", "Noto Sans", "Arial", "Helvetica"];

/// Draws SVG files as PNG.
pub struct Painter {
    options: Options<'static>,
}

impl Painter {
    /// Looks for the machine's fonts.
    ///
    /// # Errors
    /// None is installed.
    pub fn new() -> Result<Painter> {
        let mut options = Options::default();
        let fonts = options.fontdb_mut();
        fonts.load_system_fonts();
        Painter::with_fonts(options)
    }

    fn with_fonts(mut options: Options<'static>) -> Result<Painter> {
        let family = {
            let fonts = &options.fontdb;
            let known = |name: &&&str| {
                let query = fontdb::Query { families: &[fontdb::Family::Name(name)], ..Default::default() };
                fonts.query(&query).is_some()
            };
            let any = || fonts.faces().next().and_then(|face| Some(face.families.first()?.0.clone()));
            FAMILIES.iter().find(known).map(|name| (*name).to_string()).or_else(any)
        };
        let Some(family) = family else {
            let message = "this machine has no font for the texts of a PNG; install one, such as the package \
                           fonts-dejavu-core, or take the SVG files";
            return Err(Error::new(message));
        };
        options.fontdb_mut().set_sans_serif_family(family);
        Ok(Painter { options })
    }

    /// The picture of an SVG file, as large as the file says.
    ///
    /// # Errors
    /// What is no SVG, or too large to draw.
    pub fn png(&self, svg: &str) -> Result<Vec<u8>> {
        let fail = |what: String| Error::new(format!("cannot be drawn as PNG: {what}"));
        let tree = Tree::from_str(svg, &self.options).map_err(|error| fail(error.to_string()))?;
        let size = tree.size().to_int_size();
        let pixmap = Pixmap::new(size.width(), size.height());
        let mut pixmap = pixmap.ok_or_else(|| fail("it is too large".into()))?;
        resvg::render(&tree, Transform::default(), &mut pixmap.as_mut());
        pixmap.encode_png().map_err(|error| fail(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_fonts_is_told_so() {
        let message = Painter::with_fonts(Options::default()).err().unwrap().to_string();
        assert!(message.contains("no font") && message.contains("fonts-dejavu-core"), "{message}");
    }

    #[test]
    fn what_is_no_drawing_is_refused() {
        let Ok(painter) = Painter::new() else {
            eprintln!("skipped: no font is installed");
            return;
        };
        assert!(painter.png("no svg").is_err());
        assert!(painter.png("<svg xmlns='http://www.w3.org/2000/svg' width='1e9' height='1e9'/>").is_err());
    }
}
