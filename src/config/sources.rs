//! Sources of settings and their precedence.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::dot_env;
use super::error::{ConfigError, ValueSource};
use super::keys::{DEFAULTS, ENV_PREFIX};
use super::raw::RawSettings;
use super::toml;
use super::value::{RawValue, SourcedValue};

/// Sources of the configuration. By default only the built-in defaults are read, which keeps tests
/// independent of their environment.
///
/// ```
/// use sekisho::config::{Config, Sources};
///
/// let sources = Sources { flags: vec![("server.listen".into(), "127.0.0.1:0".into())], ..Sources::default() };
/// assert_eq!(Config::load(&sources)?.config.server.listen.port(), Some(0));
/// # Ok::<(), sekisho::config::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct Sources {
    /// The file of `--config`. It must exist.
    pub file: Option<PathBuf>,
    /// Keys and values from the command line. They override all other sources.
    pub flags: Vec<(String, String)>,
    /// Environment variables. Only names of the form `SEKISHO_SECTION__KEY` are read.
    pub env: Vec<(String, String)>,
    /// The directory of `.env` and `sekisho.toml`, both optional.
    pub dir: Option<PathBuf>,
    /// The configuration file if neither `file` nor `dir` has one.
    pub fallback_file: Option<PathBuf>,
}

impl Sources {
    /// Returns the sources of this process: its environment, its current directory, and
    /// `/etc/sekisho/sekisho.toml`.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError::NotUtf8`] if a variable with the prefix `SEKISHO_` is not UTF-8.
    pub fn from_env(file: Option<PathBuf>) -> Result<Self, ConfigError> {
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else { continue };
            let value = value.into_string().map_err(|_| ConfigError::NotUtf8 { name: name.to_owned() })?;
            env.push((name.to_owned(), value));
        }
        Ok(Self {
            file,
            flags: Vec::new(),
            env,
            dir: Some(PathBuf::from(".")),
            fallback_file: Some(PathBuf::from("/etc/sekisho/sekisho.toml")),
        })
    }

    /// Reads all sources, in ascending precedence.
    pub(super) fn read(&self) -> Result<RawConfig, ConfigError> {
        let defaults = toml::parse(Path::new(""), DEFAULTS, |_| ValueSource::BuiltIn).settings;
        let mut settings = defaults.clone();
        let mut raw = RawConfig::default();
        if let Some((path, text)) = self.find_file()? {
            let place: Arc<Path> = path.as_path().into();
            let parsed = toml::parse(&path, &text, |line| ValueSource::File { path: place.clone(), line });
            settings.extend(parsed.settings);
            raw.routes = parsed.routes.into_iter().map(RawSettings::new).collect();
            raw.errors = parsed.errors;
            raw.unreadable_keys = parsed.unreadable_keys;
            raw.file = Some(path);
        }
        settings.extend(self.dot_env(&mut raw.errors)?);
        let environment = self.env.iter().map(|(name, value)| (name.clone(), value.clone()));
        settings.extend(variables(environment, ValueSource::Environment, &mut raw.errors));
        for (key, value) in &self.flags {
            match deny_route(key, &ValueSource::Flag) {
                Ok(()) => {
                    let value = RawValue::Untyped(value.clone());
                    settings.insert(key.clone(), SourcedValue { value, place: ValueSource::Flag });
                }
                Err(error) => raw.errors.push(error),
            }
        }
        raw.settings = RawSettings::new(settings);
        raw.defaults = RawSettings::new(defaults);
        Ok(raw)
    }

    /// Returns a hash of the configuration file, its path, and `.env`, to detect changes. The search for
    /// the file is repeated on each call.
    #[must_use]
    pub fn snapshot(&self) -> ContentHash {
        let dot_env = self.dir.as_ref().map(|dir| if_exists(dir, fs::read(dir.join(".env"))));
        let mut hash = Context::new(&SHA256);
        let (path, text) = self.find_file().ok().flatten().unwrap_or_default();
        for part in [path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(&dot_env.and_then(Result::ok).flatten().unwrap_or_default());
        let mut digest = [0; 32];
        digest.copy_from_slice(hash.finish().as_ref());
        ContentHash(digest)
    }

    /// Returns variables with one underscore where two are needed, each with its correct name.
    pub(super) fn misnamed_variables<'a>(
        &'a self,
        keys: &'a [&str],
    ) -> impl Iterator<Item = (&'a str, String)> {
        let names = self.env.iter().map(|(name, _)| name.as_str());
        names.filter_map(move |name| {
            let key = keys
                .iter()
                .find(|key| name == format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase()))?;
            Some((name, format!("{ENV_PREFIX}{}", key.replace('.', "__").to_uppercase())))
        })
    }

    fn find_file(&self) -> Result<Option<(PathBuf, String)>, ConfigError> {
        if let Some(path) = &self.file {
            let text = fs::read_to_string(path).map_err(|source| unreadable(path, source))?;
            return Ok(Some((path.clone(), text)));
        }
        let local = self.dir.as_ref().map(|dir| dir.join("sekisho.toml"));
        for path in local.into_iter().chain(self.fallback_file.clone()) {
            if let Some(text) = if_exists(&path, fs::read_to_string(&path))? {
                return Ok(Some((path, text)));
            }
        }
        Ok(None)
    }

    fn dot_env(&self, errors: &mut Vec<ConfigError>) -> Result<BTreeMap<String, SourcedValue>, ConfigError> {
        let Some(path) = self.dir.as_ref().map(|dir| dir.join(".env")) else { return Ok(BTreeMap::new()) };
        // Python virtual environments are often a directory called `.env`.
        if path.is_dir() {
            return Ok(BTreeMap::new());
        }
        let Some(bytes) = if_exists(&path, fs::read(&path))? else { return Ok(BTreeMap::new()) };
        let mut file = dot_env::parse(&path, &bytes);
        errors.append(&mut file.errors);
        let path: Arc<Path> = path.into();
        let place = |name: String| ValueSource::DotEnv { path: path.clone(), name: name.into() };
        Ok(variables(file.variables.into_iter(), place, errors))
    }
}

/// SHA-256 of the files of [`Sources`]. Their contents are not kept, for they may be secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentHash([u8; 32]);

/// The settings of all sources, not yet parsed.
#[derive(Default)]
pub(super) struct RawConfig {
    pub(super) settings: RawSettings,
    /// The built-in defaults alone.
    pub(super) defaults: RawSettings,
    pub(super) routes: Vec<RawSettings>,
    pub(super) file: Option<PathBuf>,
    /// The errors of entries that are missing in all of them.
    pub(super) errors: Vec<ConfigError>,
    /// The keys of lines of the file that are no TOML.
    pub(super) unreadable_keys: Vec<String>,
}

/// Returns the settings among environment variables.
///
/// Names without `__` are ignored: Kubernetes injects variables such as `SEKISHO_PORT` for a service
/// called `sekisho`.
fn variables(
    pairs: impl Iterator<Item = (String, String)>,
    place: impl Fn(String) -> ValueSource,
    errors: &mut Vec<ConfigError>,
) -> BTreeMap<String, SourcedValue> {
    let mut settings = BTreeMap::<String, SourcedValue>::new();
    for (name, value) in pairs {
        let Some(rest) = name.strip_prefix(ENV_PREFIX).filter(|rest| rest.contains("__")) else { continue };
        let key = rest.to_lowercase().replace("__", ".");
        let place = place(name);
        if let Err(error) = deny_route(&key, &place) {
            errors.push(error);
            continue;
        }
        let value = SourcedValue { value: RawValue::Untyped(value), place: place.clone() };
        // A variable may stand twice in `.env`; the last one counts. Two spellings are an error.
        match settings.insert(key.clone(), value) {
            Some(previous) if previous.place != place => {
                errors.push(ConfigError::Duplicate { key, first: previous.place, second: place });
            }
            _ => {}
        }
    }
    settings
}

fn deny_route(key: &str, place: &ValueSource) -> Result<(), ConfigError> {
    if key.starts_with("routes.") {
        return Err(ConfigError::RoutesOutsideFile { key: key.to_owned(), place: place.clone() });
    }
    Ok(())
}

/// Returns the contents of the file `path`, as they were read, or `None` if there is no such file.
fn if_exists<T>(path: &Path, contents: io::Result<T>) -> Result<Option<T>, ConfigError> {
    match contents {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(unreadable(path, error)),
    }
}

fn unreadable(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Unreadable { path: path.to_owned(), key: None, source }
}
