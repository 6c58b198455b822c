//! Models on the Hugging Face hub, by their names: fetched into the cache on this disk that other programs share.

use std::path::{Path, PathBuf};
use std::{env, fs};

use clap::Args;
use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::ProgressBar;
use serpens_data::Tokenizer;
use serpens_formats::shards;
use serpens_nn::checkpoint::{CONFIG_FILE, PICKLED_FILE, WEIGHTS_FILE};
use serpens_report::grouped;
use smart_default::SmartDefault;

use crate::output::{BARS, tell};
use crate::refusal::Refusal;
use crate::runs::RUNS;

type Result<T, E = HubError> = std::result::Result<T, E>;

/// The revision of a model's newest files.
pub(crate) const NEWEST: &str = "main";

/// Why a model on the hub cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The hub does not give it, or the connection or the disk failed.
    #[error("{}", in_words(.0))]
    Failed(#[from] ApiError),
    /// The model on the hub has no such file.
    #[error("it has no {0}; name another model, or a file of it: owner/name/FILE.gguf")]
    NoFile(String),
    /// The cache has no such file, and nobody is asked.
    #[error(
        "{0} of revision {1} is not in the cache; leave out --offline and HF_HUB_OFFLINE to fetch it"
    )]
    NotCached(String, String),
    /// The hub names a file or a commit as none is called.
    #[error(
        "the hub names its files and commits by {0:?}, which is no digest: it is not to be trusted"
    )]
    Hostile(String),
    /// There is no folder for the cache.
    #[error("there is no home folder for the cache: set HF_HOME")]
    NoHome,
    /// The index of its weights is broken.
    #[error(transparent)]
    Index(#[from] Box<serpens_formats::Error>),
}

impl HubError {
    /// Whether nobody answered at all.
    fn is_no_answer(&self) -> bool {
        matches!(self, HubError::Failed(ApiError::RequestError(error)) if !matches!(**error, ureq::Error::StatusCode(_)))
    }
}

fn in_words(error: &ApiError) -> String {
    let ApiError::RequestError(error) = error else {
        let cache = cache();
        let cache = cache.path().display();
        return format!(
            "fetching to {cache} broke off ({error}); the same command goes on from there"
        );
    };
    match **error {
        ureq::Error::StatusCode(404) => {
            "the hub has no model of this name, or not with this --revision".into()
        }
        ureq::Error::StatusCode(401 | 403) => format!(
            "it is private or gated, or its name is wrong ({error}); accept its terms on its page, and give a token in HF_TOKEN, or in the file token in HF_HOME"
        ),
        ureq::Error::StatusCode(416) => format!(
            "what is left of an earlier download does not fit: delete the files that end in .part below {}",
            cache().path().display()
        ),
        _ => format!("the hub does not answer ({error}); --offline takes what is in the cache"),
    }
}

/// How models on the hub are found.
#[derive(Args, Clone, Debug, PartialEq, SmartDefault)]
pub struct HubArgs {
    /// Of a model on the hub, the branch, tag or commit.
    #[arg(long, value_name = "NAME", default_value = NEWEST)]
    #[default(NEWEST.into())]
    pub(crate) revision: String,
    /// Take what the cache has of the hub, and ask nobody; so does HF_HUB_OFFLINE=1.
    #[arg(long)]
    pub(crate) offline: bool,
}

impl HubArgs {
    /// The folder in the cache of the model called `owner/name`, or of its tokenizer alone, or of
    /// `owner/name/FILE.gguf` the file, fetched where they are missing. The path itself where it is no such name, or
    /// leads into a folder that is here. Signals end it at once, unless they are listened to.
    ///
    /// # Errors
    /// [`crate::Error::Hub`].
    pub(crate) fn fetch(&self, path: &Path, weights: bool) -> crate::Result<PathBuf> {
        let words: Vec<&str> = path.to_str().unwrap_or_default().split('/').collect();
        let file = match words[..] {
            [_, _] => CONFIG_FILE,
            [_, _, file] if file.ends_with(".gguf") => file,
            _ => return self.here(path),
        };
        let is_here = Path::new(words[0]).exists() || Path::new(RUNS).join(words[0]).exists();
        if is_here || !words.iter().copied().all(is_word) {
            return self.here(path);
        }
        if !self.revision.split('/').all(is_word) {
            return Err(crate::Error::refused("--revision", Refusal::NoRevision));
        }
        let name = words[..2].join("/");
        let repo = Repo::with_revision(name.clone(), RepoType::Model, self.revision.clone());
        let is_set = |value: String| ["1", "ON", "YES", "TRUE"].contains(&&*value.to_uppercase());
        let offline = self.offline || env::var("HF_HUB_OFFLINE").is_ok_and(is_set);
        let found = match (offline, has_home()) {
            (_, false) => Err(HubError::NoHome),
            (true, _) => self.cached(repo, file, weights),
            (false, _) => {
                let fetched = Snapshot::of(repo.clone());
                let fetched = fetched.and_then(|snapshot| snapshot.fetch(file, weights));
                fetched.or_else(|error| {
                    let cached = self.cached(repo, file, weights).ok();
                    let cached = cached.filter(|_| error.is_no_answer()).ok_or(error)?;
                    tell("the hub does not answer: what the cache has of it is taken");
                    Ok(cached)
                })
            }
        };
        let found = found.map_err(|source| crate::Error::Hub { name, source })?;
        Ok(found.with_file_name(words.get(2).unwrap_or(&"")))
    }

    /// A path that is no name on the hub, which has no revisions.
    fn here(&self, path: &Path) -> crate::Result<PathBuf> {
        let wrong = Refusal::NoUse("only names on the hub (owner/name) have revisions");
        let found = (self.revision == NEWEST).then(|| path.to_owned());
        found.ok_or_else(|| crate::Error::refused("--revision", wrong))
    }

    /// The file in the cache, if what goes with a configuration is there too.
    fn cached(&self, repo: Repo, file: &str, weights: bool) -> Result<PathBuf> {
        let cache = cache().repo(repo);
        // A commit is kept under no other name.
        let find = |file: &str| {
            let at_commit = cache.pointer_path(&self.revision).join(file);
            let at_commit = Some(at_commit).filter(|file| file.exists());
            cache.get(file).or(at_commit)
        };
        let missing = |file: &str| HubError::NotCached(file.into(), self.revision.clone());
        let found = find(file).ok_or_else(|| missing(file))?;
        let whole = |file: &str| find(file).or_else(|| find(&format!("{file}.index.json")));
        let has_weights = || {
            [WEIGHTS_FILE, PICKLED_FILE]
                .into_iter()
                .any(|file| whole(file).is_some())
        };
        match file == CONFIG_FILE && weights && !has_weights() {
            true => Err(missing(WEIGHTS_FILE)),
            false => Ok(found),
        }
    }
}

/// Whether this can be a name on the hub, and a part of a path that leads nowhere else.
fn is_word(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    name.starts_with(|c| c != '.') && name.chars().all(legal)
}

/// Whether there is a place for the cache, as the library asks for one: without, it panics.
fn has_home() -> bool {
    env::var_os("HF_HOME").is_some() || env::home_dir().is_some()
}

fn cache() -> Cache {
    let folder = env::var("HF_HUB_CACHE");
    folder.map_or_else(|_| Cache::from_env(), |folder| Cache::new(folder.into()))
}

/// A model's files of one commit.
struct Snapshot {
    /// Where they are in the cache.
    folder: PathBuf,
    cache: CacheRepo,
    api: Api,
    hub: ApiRepo,
    info: RepoInfo,
}

impl Snapshot {
    fn of(repo: Repo) -> Result<Self> {
        let token = env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
        let token = token.or_else(|| Cache::from_env().token());
        let api = ApiBuilder::from_env().with_cache_dir(cache().path().clone());
        let api = api.with_token(token).build()?;
        let (cache, hub) = (cache().repo(repo.clone()), api.repo(repo));
        let info = hub.info()?;
        // They become parts of paths.
        if info.sha.len() != 40 || !info.sha.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(HubError::Hostile(info.sha));
        }
        let folder = cache.pointer_path(&info.sha);
        Ok(Self {
            folder,
            cache,
            api,
            hub,
            info,
        })
    }

    /// The file, and what goes with it if it is a configuration.
    fn fetch(&self, file: &str, weights: bool) -> Result<PathBuf> {
        if !self.have(&[file])? {
            return Err(HubError::NoFile(file.into()));
        }
        if file == CONFIG_FILE {
            if weights {
                self.fetch_weights()?;
            }
            for files in Tokenizer::files() {
                if self.have(&files)? {
                    break;
                }
            }
            for file in Tokenizer::SETTINGS {
                self.have(&[file])?;
            }
        }
        self.cache
            .create_ref(&self.info.sha)
            .map_err(ApiError::from)?;
        Ok(self.folder.join(file))
    }

    fn fetch_weights(&self) -> Result<()> {
        for weights in [WEIGHTS_FILE, PICKLED_FILE] {
            if self.have(&[weights])? || self.have(&[&format!("{weights}.index.json")])? {
                let files = shards(&self.folder.join(weights)).map_err(Box::new)?;
                for file in files.into_iter().flatten() {
                    let name = file.strip_prefix(&self.folder).unwrap_or(&file);
                    let name = name.to_string_lossy();
                    if !self.have(&[&name])? {
                        return Err(HubError::NoFile(name.into()));
                    }
                }
                return Ok(());
            }
        }
        Err(HubError::NoFile(WEIGHTS_FILE.into()))
    }

    /// Fetches these files, if there are all of them.
    fn have(&self, files: &[&str]) -> Result<bool> {
        let there = &self.info.siblings;
        let is_there = |file: &&str| there.iter().any(|there| there.rfilename == *file);
        let all = files.iter().all(is_there);
        let mut files = files.iter().filter(|_| all);
        files.try_for_each(|file| self.download(file))?;
        Ok(all)
    }

    fn download(&self, file: &str) -> Result<()> {
        let path = self.folder.join(file);
        if path.exists() {
            return Ok(());
        }
        let about = self.api.metadata(&self.hub.url(file))?;
        if !is_word(about.etag()) {
            return Err(HubError::Hostile(about.etag().to_owned()));
        }
        let blob = self.cache.blob_path(about.etag());
        if blob.exists() {
            // Another commit has the same, whole: so is a link to it.
            let linked = fs::create_dir_all(path.parent().unwrap_or(&path));
            return Ok(linked
                .and_then(|()| fs::hard_link(blob, path))
                .map_err(ApiError::from)?);
        }
        tell(&format!("fetching {file}, {} bytes", grouped(about.size())));
        let bar = BARS.add(ProgressBar::new(0));
        let fetched = self.hub.download_with_progress(file, bar.clone());
        bar.finish_and_clear();
        Ok(fetched.map(drop)?)
    }
}
