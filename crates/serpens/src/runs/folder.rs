//! The folder of a run.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serpens_core::files::{
    Accept, FileError, is_temporary, make_folders, read_text, remove_temporary, write_bytes,
};
use serpens_data::Tokenizer;
use serpens_report::{Form, Report};
use serpens_train::{Error as TrainError, Lock};

use crate::output::tell;
use crate::recipe::{Recipe, located};
use crate::refusal::Refusal;
use crate::{Error, Result};

/// A recipe for the same run.
const SETTINGS: &str = "config.toml";
/// The folder of what makes tokens of the task's text.
const TOKENIZER: &str = "tokenizer";
/// What the page shows, for programs.
const REPORT: &str = "report.json";

/// A run's folder: `config.toml`, `tokenizer/`, `metrics.jsonl`, `checkpoints/`, `model/`, `adapter/`, `report.html`
/// and its `figures/`, `report.json`, and `twin/` with the same of a second model.
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
    /// Held by who trains; who only reads needs none.
    lock: Option<Lock>,
}

impl RunFolder {
    /// Makes the folder, of this name or the first free one of the task's. The name stays free until the settings are
    /// in it.
    pub(crate) fn create(out: &Path, name: Option<&str>, task: &str) -> Result<Self> {
        let Some(name) = name else {
            let mut folders = (1_u64..).map(|n| Self::make(out.join(format!("{task}-{n}"))));
            let free = folders.find_map(Result::transpose);
            return free.expect("there are fewer folders than numbers");
        };
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(Error::refused("--name", Refusal::NotAName(name.into())));
        }
        let path = out.join(name);
        Self::make(path.clone())?.ok_or(Error::RunExists(path))
    }

    /// `None` where something of this name is there already, but for what a run left that ended before it had begun.
    fn make(path: PathBuf) -> Result<Option<Self>> {
        let free = fs::read_dir(&path).map_or(!path.exists(), |mut entries| {
            let left = |name: &str| [Lock::FILE, TOKENIZER].contains(&name) || is_temporary(name);
            entries.all(|entry| entry.is_ok_and(|e| left(&e.file_name().to_string_lossy())))
        });
        if !free {
            return Ok(None);
        }
        make_folders(&path)?;
        match (Self { path, lock: None }).hold() {
            // Another run begins in it.
            Err(Error::Train(TrainError::InUse { .. })) => Ok(None),
            held => Ok(Some(held?).filter(|folder| !folder.settings().exists())),
        }
    }

    /// Takes the folder for this process, and removes what others left in it that were killed while they wrote.
    ///
    /// # Errors
    /// [`TrainError::InUse`] where another trains in it.
    pub(crate) fn hold(mut self) -> Result<Self> {
        self.lock = Some(Lock::take(&self.path)?);
        for error in remove_temporary(&self.path) {
            tell(&format!("warning: {error}"));
        }
        Ok(self)
    }

    /// What tells whether the folder still is this process's own.
    pub(super) fn lock(&self) -> &Lock {
        self.lock.as_ref().expect("a run takes its folder first")
    }

    /// The folder of a run that is there already, which an option names: this one, or the one of this name in `out`.
    pub(crate) fn find(option: &str, run: &Path, out: &Path) -> Result<Self> {
        let folders = [run.to_owned(), out.join(run)];
        let found = folders.iter().find_map(|path| Self::at(path));
        found.ok_or_else(|| Error::refused(option, Refusal::NoRun(folders)))
    }

    /// The folder of a run that `path` is, or lies in: a model's or a twin's folder lies in one.
    pub(crate) fn around(path: &Path) -> Option<Self> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        path.ancestors().take(3).find_map(Self::at)
    }

    fn at(path: &Path) -> Option<Self> {
        let (path, lock) = (path.to_owned(), None);
        Some(Self { path, lock }).filter(|folder| folder.settings().exists())
    }

    /// The file of settings, a recipe for the same run.
    pub(crate) fn settings(&self) -> PathBuf {
        self.path.join(SETTINGS)
    }

    /// Keeps the tokenizer of a recipe's task, and has the recipe find it here; bytes need no file.
    pub(crate) fn keep_tokenizer(
        &self,
        tokenizer: Option<&Tokenizer>,
        recipe: &mut Recipe,
    ) -> Result<()> {
        if let Some(left) = self.tokenizer() {
            // Of a run that ended before it had begun.
            fs::remove_dir_all(&left).map_err(FileError::of("remove", &left))?;
        }
        let tokenizer = tokenizer.filter(|tokenizer| !tokenizer.is_bytes());
        if let (Some(tokenizer), Some(setting)) =
            (tokenizer, recipe.task.settings_mut().tokenizer())
        {
            let dir = self.path.join(TOKENIZER);
            make_folders(&dir)?;
            tokenizer.save(&dir)?;
            setting.path = Some(located(&dir));
        }
        Ok(())
    }

    /// Where the tokenizer was kept, if one was.
    pub(crate) fn tokenizer(&self) -> Option<PathBuf> {
        Some(self.path.join(TOKENIZER)).filter(|dir| dir.is_dir())
    }

    /// The report that [`save_report`](Self::save_report) kept.
    pub(crate) fn report(&self) -> Result<Report> {
        let path = self.path.join(REPORT);
        let text = read_text(&path, Accept::Files).map_err(|error| match error.source.kind() {
            ErrorKind::NotFound => Error::refused("report", Refusal::NoReport(path.clone())),
            _ => error.into(),
        })?;
        let report = serde_json::from_str(&text);
        report.map_err(|error| Error::refused(self.path.display().to_string(), error))
    }

    /// Writes the page, what [`report`](Self::report) reads, and the figures as files of their own, for other pages.
    pub(super) fn save_report(&self, report: &Report) -> Result<()> {
        write_bytes(&self.path.join("report.html"), report.to_html())?;
        let kept = serde_json::to_string(report).expect("a report has names and numbers");
        write_bytes(&self.path.join(REPORT), kept)?;
        let dir = self.path.join("figures");
        make_folders(&dir)?;
        for (name, svg) in report.to_files(Form::Page) {
            write_bytes(&dir.join(format!("{name}.svg")), &svg)?;
        }
        Ok(())
    }
}
