//! Where settings come from, and in which order they win.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::error::{ConfigError, ValueSource};
use super::file::{self, Parsed};
use super::settings::{RawValue, Settings, SourcedValue};

/// Where a configuration is read from. The default reads nothing but the built-in defaults, so
/// tests say exactly what they mean.
///
/// ```
/// use sekisho::config::{Config, Sources};
///
/// let sources = Sources { flags: vec![("server.listen".into(), "127.0.0.1:0".into())], ..Sources::default() };
/// assert_eq!(Config::load(&sources)?.config.server.listen.port(), 0);
/// # Ok::<(), sekisho::config::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that `--config` names. It must be there.
    pub file: Option<PathBuf>,
    /// Keys and values from the command line; they win over all else.
    pub flags: Vec<(String, String)>,
    /// The environment. Only names such as `SEKISHO_SECTION__KEY` are looked at.
    pub env: Vec<(String, String)>,
    /// The directory that may hold `.env` and `sekisho.toml`.
    pub dir: Option<PathBuf>,
    /// The file that is read when neither `file` nor `dir` has one.
    pub fallback_file: Option<PathBuf>,
}

impl Sources {
    /// Those of this process: its environment, its current directory, and
    /// `/etc/sekisho/sekisho.toml`.
    ///
    /// # Errors
    ///
    /// If one of our variables isn't text.
    pub fn from_env(file: Option<PathBuf>) -> Result<Self, ConfigError> {
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else { continue };
            let value = value.into_string().map_err(|_| ConfigError::NotText { name: name.to_owned() })?;
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

    /// Reads them all; later layers replace what earlier ones said.
    pub(super) fn read(&self) -> Result<RawConfig, ConfigError> {
        let mut settings = file::parse(DEFAULTS, |_| ValueSource::BuiltIn)?.settings;
        let mut routes = Vec::new();
        let file = self.find_file()?;
        if let Some((path, text)) = &file {
            let place: Arc<Path> = path.as_path().into();
            let parsed = file::parse(text, |line| ValueSource::File { path: place.clone(), line });
            let Parsed { settings: given, routes: tables } = parsed.map_err(|error| in_file(error, path))?;
            settings.extend(given);
            routes = tables;
        }
        settings.extend(self.dot_env()?);
        let environment = self.env.iter().map(|(name, value)| (name.clone(), value.clone()));
        settings.extend(variables(environment, ValueSource::Environment)?);
        for (key, value) in &self.flags {
            refuse_route(key, &ValueSource::Flag)?;
            settings.insert(
                key.clone(),
                SourcedValue { value: RawValue::Untyped(value.clone()), place: ValueSource::Flag },
            );
        }
        Ok(RawConfig {
            settings: Settings::new(settings),
            routes: routes.into_iter().map(Settings::new).collect(),
            file: file.map(|(path, _)| path),
        })
    }

    /// What the files say now, to see whether that has changed: the configuration file, wherever the path
    /// leads by now, and `.env`.
    #[must_use]
    pub fn snapshot(&self) -> ContentHash {
        let dot_env = self.dir.as_ref().map(|dir| read_if_there(&dir.join(".env")));
        let mut hash = Context::new(&SHA256);
        let (path, text) = self.find_file().ok().flatten().unwrap_or_default();
        for part in [path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(dot_env.and_then(Result::ok).flatten().unwrap_or_default().as_bytes());
        let digest = hash.finish();
        let mut snapshot = [0; 32];
        snapshot.copy_from_slice(digest.as_ref());
        ContentHash(snapshot)
    }

    /// The names of variables that look as if they were meant for us, and aren't read.
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
            if let Some(text) = read_if_there(&path)? {
                return Ok(Some((path, text)));
            }
        }
        Ok(None)
    }

    fn dot_env(&self) -> Result<BTreeMap<String, SourcedValue>, ConfigError> {
        let Some(path) = self.dir.as_ref().map(|dir| dir.join(".env")) else { return Ok(BTreeMap::new()) };
        // Python's virtual environments are often a directory of that name.
        if path.is_dir() {
            return Ok(BTreeMap::new());
        }
        let Some(text) = read_if_there(&path)? else { return Ok(BTreeMap::new()) };
        let lines = dotenvy::from_read_iter(text.as_bytes());
        let pairs: Result<Vec<_>, _> = lines.collect();
        let pairs = pairs.map_err(|error| bad_dot_env(&path, &text, &error))?;
        let path: Arc<Path> = path.into();
        variables(pairs.into_iter(), |name| ValueSource::DotEnv { path: path.clone(), name: name.into() })
    }
}

/// What the files of [`Sources`] said at a time: a hash, for they may hold secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentHash([u8; 32]);

/// All that was given, by key.
pub(super) struct RawConfig {
    pub(super) settings: Settings,
    pub(super) routes: Vec<Settings>,
    pub(super) file: Option<PathBuf>,
}

/// The settings among these variables. Kubernetes injects `SEKISHO_PORT` and the like for a service
/// of our name, which is why only names with `__` count.
fn variables(
    pairs: impl Iterator<Item = (String, String)>,
    place: impl Fn(String) -> ValueSource,
) -> Result<BTreeMap<String, SourcedValue>, ConfigError> {
    let mut settings = BTreeMap::<String, SourcedValue>::new();
    for (name, value) in pairs {
        let Some(rest) = name.strip_prefix(ENV_PREFIX).filter(|rest| rest.contains("__")) else { continue };
        let key = rest.to_lowercase().replace("__", ".");
        let place = place(name);
        refuse_route(&key, &place)?;
        let given = SourcedValue { value: RawValue::Untyped(value), place };
        // The same variable twice, as `.env` may have it, is no contradiction: the last one counts.
        match settings.insert(key.clone(), given.clone()) {
            Some(other) if other.place != given.place => {
                return Err(ConfigError::GivenTwice { key, first: other.place, second: given.place });
            }
            _ => {}
        }
    }
    Ok(settings)
}

fn refuse_route(key: &str, place: &ValueSource) -> Result<(), ConfigError> {
    if key.starts_with("routes.") {
        return Err(ConfigError::RoutesOutsideFile { key: key.to_owned(), place: place.clone() });
    }
    Ok(())
}

fn read_if_there(path: &Path) -> Result<Option<String>, ConfigError> {
    match fs::read_to_string(path) {
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

fn in_file(error: ConfigError, file: &Path) -> ConfigError {
    match error {
        ConfigError::Syntax { line, problem, .. } => {
            ConfigError::Syntax { path: file.to_owned(), line, problem }
        }
        other => other,
    }
}

/// The error's own text would show the line, and with it a secret.
fn bad_dot_env(path: &Path, text: &str, error: &dotenvy::Error) -> ConfigError {
    let bad = match error {
        dotenvy::Error::LineParse(bad, _) => bad.as_str(),
        _ => "",
    };
    let first = bad.lines().next().unwrap_or_default();
    let line = text.lines().position(|line| line.trim() == first.trim()).unwrap_or_default() + 1;
    let problem = "expected NAME=value; values with spaces or # in them need quotes".to_owned();
    ConfigError::Syntax { path: path.to_owned(), line, problem }
}

const ENV_PREFIX: &str = "SEKISHO_";

/// The built-in defaults, which list and explain every key.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");
