//! What files hold, and how it is read.

mod audio;
mod dna;
mod image;
mod table;
pub(crate) mod text;

use std::mem::discriminant;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use audio::{AudioConfig, AudioForm, from_mu_law, mu_law, write_wav};
pub use dna::{Ambiguity, DnaConfig, LowerCase};
pub use image::{Colours, ImageConfig, idx_labels};
pub use table::{Gaps, TableConfig, columns};

use crate::Tokenizer;
use crate::corpus::Asked;
use crate::error::{Error, Result};
use crate::files::{self, Found};

/// What files hold, and how it is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Content {
    /// Texts: of `.jsonl` files each line, otherwise each file.
    #[default]
    Text,
    /// Nucleotides: the records of FASTA and FASTQ files.
    Dna(DnaConfig),
    /// Sound: WAV and FLAC files.
    Audio(AudioConfig),
    /// Images as sequences of patches: PNG and JPEG files, and the images of IDX files.
    Image(ImageConfig),
    /// Rows of numbers: CSV files, whose columns are channels.
    Table(TableConfig),
}

/// A part of a record, as long as is worth reading at a time.
pub(crate) struct Block {
    /// What the record is called in its file, or `name:FROM-TO` of a stretch of it, counted from 1 on, without `TO` where
    /// that is not known yet; empty where the file is one record.
    pub(crate) name: String,
    pub(crate) read: Read,
    /// Where in its file the text lies, if it is there as it is.
    pub(crate) at: usize,
    /// Whether it begins its record.
    pub(crate) begins: bool,
    /// Whether it ends its record.
    pub(crate) ends: bool,
    /// Whether it is to be learnt.
    pub(crate) learnt: bool,
}

impl Block {
    /// A part of a record of which all is to be learnt, and whose text is not there as it is.
    pub(crate) fn new(name: String, read: Read, begins: bool, ends: bool) -> Self {
        Self {
            name,
            read,
            at: 0,
            begins,
            ends,
            learnt: true,
        }
    }

    /// The text, none where values were read.
    pub(crate) fn text(&self) -> &[u8] {
        match &self.read {
            Read::Text(text) => text,
            Read::Values { .. } => &[],
        }
    }
}

/// What was read.
pub(crate) enum Read {
    /// For a tokenizer.
    Text(Vec<u8>),
    /// Row-major, of finite values. // (length, channels)
    Values { values: Vec<f32>, channels: usize },
}

/// Takes blocks in their order.
pub(crate) type Take<'a, E> = dyn FnMut(Block) -> Result<(), E> + 'a;

/// The endings of files' names by which their content is recognised, beside those of compression.
const DNA: [&str; 8] = ["fa", "fasta", "fna", "ffn", "frn", "fas", "fq", "fastq"];
const AUDIO: [&str; 2] = ["wav", "flac"];
const IMAGES: [&str; 3] = ["png", "jpg", "jpeg"];
const TABLES: [&str; 2] = ["csv", "tsv"];

impl Content {
    /// What a file holds by its name, text where that tells nothing.
    fn of(file: &Found) -> Self {
        let end = file.extension().unwrap_or_default();
        let end = &*end.to_string_lossy().to_lowercase();
        let name = file.path.file_name().unwrap_or_default();
        let idx = name.to_string_lossy().contains("idx3-ubyte");
        match end {
            _ if idx || IMAGES.contains(&end) => Self::Image(ImageConfig::default()),
            _ if DNA.contains(&end) => Self::Dna(DnaConfig::default()),
            _ if AUDIO.contains(&end) => Self::Audio(AudioConfig::default()),
            _ if TABLES.contains(&end) => Self::Table(TableConfig {
                delimiter: if end == "tsv" { '\t' } else { ',' },
                ..TableConfig::default()
            }),
            _ => Self::Text,
        }
    }

    /// The content of files, recognised by the first name that tells of DNA, sound or images, or else of tables; otherwise
    /// text.
    ///
    /// # Errors
    /// What [`Corpus::open`](crate::Corpus::open) says of no files.
    pub fn recognised(pattern: &str) -> Result<Self> {
        let found = files::find(pattern)?;
        let mut contents = found.iter().map(Self::of);
        let told = |content: &Self| *content != Self::Text;
        // A table beside other files is one of labels, mostly.
        let other = |content: &Self| told(content) && !matches!(content, Self::Table(_));
        let first = contents.clone().find(other);
        Ok(first.or_else(|| contents.find(told)).unwrap_or_default())
    }

    /// The files that a pattern names, as [`Corpus::open`](crate::Corpus::open) takes it, sorted; of a folder those whose
    /// names tell of this content, where there are such.
    ///
    /// # Errors
    /// What there is not, or cannot be read.
    pub fn files(&self, pattern: &str) -> Result<Vec<PathBuf>> {
        Ok(self
            .find(pattern)?
            .into_iter()
            .map(|found| found.path)
            .collect())
    }

    pub(crate) fn find(&self, pattern: &str) -> Result<Vec<Found>> {
        let found = files::find(pattern)?;
        let fits = |file: &Found| discriminant(&Self::of(file)) == discriminant(self);
        match *self == Self::Text || !Path::new(pattern).is_dir() || !found.iter().any(fits) {
            true => Ok(found),
            false => Ok(found.into_iter().filter(fits).collect()),
        }
    }

    /// The same as it is best classified: sound by its spectrum.
    pub fn to_classify(self) -> Self {
        match self {
            Self::Audio(config) => Self::Audio(AudioConfig {
                form: AudioForm::Mel,
                ..config
            }),
            other => other,
        }
    }

    /// The same of other files: without the regions of these.
    pub fn anywhere(self) -> Self {
        match self {
            Self::Dna(config) => Self::Dna(DnaConfig {
                regions: None,
                ..config
            }),
            other => other,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Dna(_) => "DNA",
            Self::Audio(_) => "sound",
            Self::Image(_) => "images",
            Self::Table(_) => "tables",
        }
    }

    /// What a position of it is: of text a byte.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Text => "byte",
            Self::Dna(_) => "base",
            Self::Audio(config) if config.form == AudioForm::Mel => "frame",
            Self::Audio(_) => "sample",
            Self::Image(_) => "patch",
            Self::Table(_) => "row",
        }
    }

    /// Hands on the records of a file, in blocks.
    pub(crate) fn read<E: From<Error>>(
        &self,
        file: &Found,
        tokenizer: &Tokenizer,
        take: &mut Take<'_, E>,
    ) -> Result<(), E> {
        match self {
            Self::Text => text::read(file, tokenizer, take),
            Self::Dna(config) => dna::read(config, file, tokenizer, take),
            Self::Audio(config) => audio::read(config, file, take),
            Self::Image(config) => image::read(config, file, take),
            Self::Table(config) => table::read(config, file, take),
        }
    }

    /// The records that must be there, as regions of them are read.
    pub(crate) fn asked(&self) -> Result<Asked> {
        match self {
            Self::Dna(config) => config.asked(),
            _ => Ok(Asked::default()),
        }
    }

    /// Refuses what was asked for and not there.
    pub(crate) fn check(&self, asked: &Asked) -> Result<()> {
        match self {
            Self::Dna(config) => config.check(asked),
            _ => Ok(()),
        }
    }
}
