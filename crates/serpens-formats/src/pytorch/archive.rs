//! The archive: its pickle, and the places of its storages.

use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;

use serpens_core::files::{self, MOST_WHOLE};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::Fault;

/// What an archive begins with, and a pickle without one.
const ZIP: [u8; 4] = *b"PK\x03\x04";
const PICKLE: u8 = 0x80;

pub(super) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// The folder in it that all is in.
    folder: String,
}

impl Archive {
    /// Reads what is where in an archive, which must be one of PyTorch's.
    pub(super) fn open(file: File) -> Result<Self, Fault> {
        let mut file = BufReader::new(file);
        let mut start = Vec::new();
        let read = file.by_ref().take(ZIP.len() as u64).read_to_end(&mut start);
        read.map_err(ZipError::Io)?;
        if start != ZIP {
            let legacy = start.first() == Some(&PICKLE);
            let other = ZipError::InvalidArchive("it begins otherwise".into());
            return Err(if legacy { Fault::Legacy } else { other.into() });
        }
        let mut zip = ZipArchive::new(file)?;
        if zip.has_duplicate_names() || zip.has_overlapping_files()? {
            return Err(Fault::Overlap);
        }
        let names = zip.file_names().filter_map(|name| {
            let folder = name.as_deref().ok()?.strip_suffix("/data.pkl")?;
            (!folder.contains('/')).then(|| folder.to_owned())
        });
        let folders: Vec<String> = names.collect();
        match <[String; 1]>::try_from(folders) {
            Ok([folder]) => Ok(Self { zip, folder }),
            Err(others) => Err(Fault::Pickles(others.len())),
        }
    }

    /// The pickle, whose numbers must be little-endian, as all of the file.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>, Fault> {
        match self.record("byteorder") {
            Ok(order) if order != b"little" => {
                let order = String::from_utf8_lossy(&order).into_owned();
                return Err(Fault::ByteOrder(order));
            }
            Ok(_) | Err(Fault::Zip(ZipError::FileNotFound)) => {}
            Err(fault) => return Err(fault),
        }
        self.record("data.pkl")
    }

    /// A whole file of the archive, of at most 64 MiB.
    fn record(&mut self, name: &str) -> Result<Vec<u8>, Fault> {
        let file = self.zip.by_name(&format!("{}/{name}", self.folder))?;
        Ok(files::read(file, MOST_WHOLE).map_err(ZipError::Io)?)
    }

    /// Where in the file a storage is.
    pub(super) fn storage(&mut self, key: &str) -> Result<Range<u64>, Fault> {
        let name = format!("{}/data/{key}", self.folder);
        let mut place = || {
            let index = self.zip.index_for_name(&name)?;
            let file = self.zip.by_index_raw(index).ok()?;
            let stored = file.compression() == CompressionMethod::Stored && !file.encrypted();
            let start = file.data_start().filter(|_| stored)?;
            Some(start..start + file.compressed_size())
        };
        place().ok_or(Fault::Storage(name))
    }

    pub(super) fn into_file(self) -> File {
        self.zip.into_inner().into_inner()
    }
}
