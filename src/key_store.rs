//! The key directory, with one file for each key. It can be a mounted secret.
//!
//! ```toml
//! # Signing key of sekisho. Read access allows signing in as any user.
//! number = 1
//! algorithm = "HS256"
//! created_at = "2026-01-01T00:00:00Z"
//! signing_key = "…"      # base64: 32 bytes or more for HS256, else a PKCS#8 document
//! refresh_key = "…"      # base64: 32 bytes
//! ```
//!
//! Every `*.toml` file in the directory is a key, except hidden files. Numbers are never used again: a rotation
//! claims its number by creating the file `.N.claimed`, which stays, and retiring a key leaves a file `N.retired`.
//! Owner and mode of the files follow the rule of [`secret`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use crate::secret::{self, AccessError, ReadableSecret};
use crate::services::crypto;
use crate::services::keys::{Algorithm, KeyError, KeyMaterial, KeyRing, SharedKeys, SigningKey};

/// Interval at which the directory is read again.
const REREAD_INTERVAL: Duration = Duration::from_secs(10);

/// Minimum interval between reads that are triggered by a token with an unknown key.
const MIN_REREAD_INTERVAL: Duration = Duration::from_secs(1);

/// An error of the key directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Other users can change the file or the directory.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The directory has no keys.
    #[error(
        "no keys in {0}: make one with `sekisho key init`, or mount the folder that the other replicas use"
    )]
    Empty(PathBuf),
    /// All 255 numbers have been used.
    #[error("all 255 key numbers in {0} have been used: start a new folder, which signs everybody out")]
    Exhausted(PathBuf),
    /// The directory has keys already.
    #[error("{0} holds keys already: add one with `sekisho key rotate`")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("tokens.key_dir: {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A key is invalid, or the keys conflict.
    #[error("{path}: {source}")]
    Key {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: KeyError,
    },
    /// The only key cannot be retired.
    #[error("key {0} is the only one: add another with `sekisho key rotate` first")]
    LastKey(u8),
    /// The file is not a key file. Its contents are not shown, for they may be secret.
    #[error("{path} is not a key file: {expected}")]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// Description of the expected content.
        expected: &'static str,
    },
    /// The secret that replaces the directory cannot be used.
    #[error("tokens.secret: {0}")]
    Secret(KeyError),
    /// There is no key with this number.
    #[error("there is no key {0}: see `sekisho key list`")]
    Unknown(u8),
    /// A key can be guessed.
    #[error("{path}: {problem}: run `sekisho key rotate`, then `sekisho key retire {number}`")]
    Weak {
        /// The file.
        path: PathBuf,
        /// The number of the key.
        number: u8,
        /// The weakness.
        problem: KeyError,
    },
}

/// Loads all keys.
///
/// # Errors
///
/// Returns a [`KeyFileError`] with the invalid file, or [`KeyFileError::Empty`] without any key.
pub fn load(dir: &Path, activation: Duration) -> Result<KeyRing, KeyFileError> {
    let mut keys = Vec::new();
    for (path, material) in read_all(dir)? {
        let number = material.number;
        keys.push(SigningKey::new(&material).map_err(|error| match error {
            problem @ KeyError::Weak(..) => KeyFileError::Weak { path, number, problem },
            source => KeyFileError::Key { path, source },
        })?);
    }
    if keys.is_empty() {
        return Err(KeyFileError::Empty(dir.to_owned()));
    }
    KeyRing::new(keys, activation).map_err(|source| KeyFileError::Key { path: dir.to_owned(), source })
}

/// Creates the directory and its first key, with the number after `last_known`, which is the highest number
/// that the database knows, or 0. If processes race, one of them succeeds.
///
/// # Errors
///
/// Returns [`KeyFileError::Exists`] if there are keys or files of retired keys.
pub fn init(
    dir: &Path,
    algorithm: Algorithm,
    last_known: u8,
    now: OffsetDateTime,
) -> Result<u8, KeyFileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    match last_number(dir)? {
        0 => {
            let number = next_number(dir, last_known)?;
            let is_added = add(dir, number, algorithm, now)?;
            if is_added { Ok(number) } else { Err(KeyFileError::Exists(dir.to_owned())) }
        }
        _ => Err(KeyFileError::Exists(dir.to_owned())),
    }
}

/// Adds a key and returns its number. That is higher than all numbers in the directory and than `last_known`,
/// the highest number that the database knows. Other processes may add and retire keys at the same time.
///
/// # Errors
///
/// Returns [`KeyFileError::Empty`] if there is no key yet.
pub fn rotate(
    dir: &Path,
    algorithm: Algorithm,
    last_known: u8,
    now: OffsetDateTime,
) -> Result<u8, KeyFileError> {
    loop {
        let last = last_number(dir)?;
        if last == 0 {
            return Err(KeyFileError::Empty(dir.to_owned()));
        }
        let next = next_number(dir, last.max(last_claim(dir)?).max(last_known))?;
        // Another process may have used the number, and retired it, before the claim.
        if claim(dir, next)? && !is_used(dir, next)? && add(dir, next, algorithm, now)? {
            return Ok(next);
        }
    }
}

/// Claims a number permanently. Returns `false` if another process has claimed it.
fn claim(dir: &Path, number: u8) -> Result<bool, KeyFileError> {
    create_new(&dir.join(format!(".{number}.{CLAIMED}")))
}

/// Creates an empty file and flushes it. Returns `false` if it exists.
fn create_new(path: &Path) -> Result<bool, KeyFileError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file.sync_all().map_err(failed(path)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Removes a key.
///
/// # Errors
///
/// Returns [`KeyFileError::LastKey`] for the only key and [`KeyFileError::Unknown`] for an unknown number.
pub fn retire(dir: &Path, number: u8) -> Result<(), KeyFileError> {
    let keys = read_all(dir)?;
    let Some((path, _)) = keys.iter().find(|(_, key)| key.number == number) else {
        return Err(KeyFileError::Unknown(number));
    };
    if keys.len() == 1 {
        return Err(KeyFileError::LastKey(number));
    }
    // The tombstone comes first, so that a crash in between does not free the number.
    let tombstone = dir.join(format!("{number}.{RETIRED}"));
    let is_new = create_new(&tombstone)?;
    sync_dir(dir)?;
    // Another process may be retiring the other keys. One key without a tombstone must be left.
    let retired = retired_numbers(dir)?;
    if is_new && keys.iter().all(|(_, key)| retired.contains(&key.number)) {
        fs::remove_file(&tombstone).map_err(failed(&tombstone))?;
        return Err(KeyFileError::LastKey(number));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => sync_dir(dir),
    }
}

/// Returns the keys in the order of their numbers.
///
/// # Errors
///
/// Returns a [`KeyFileError`] with the invalid file.
pub fn list(dir: &Path) -> Result<Vec<KeyMaterial>, KeyFileError> {
    let mut keys: Vec<_> = read_all(dir)?.into_iter().map(|(_, material)| material).collect();
    keys.sort_by_key(|key| key.number);
    Ok(keys)
}

/// Returns the key files that other users can read.
///
/// # Errors
///
/// Returns a [`KeyFileError`] if the directory cannot be read, or if other users can change a file.
pub fn readable_by_others(dir: &Path) -> Result<Vec<ReadableSecret>, KeyFileError> {
    let mut readable = Vec::new();
    for path in key_paths(dir)? {
        readable.extend(secret::check_access(&path)?);
    }
    Ok(readable)
}

/// Reads the directory every ten seconds, and sooner after a token with an unknown key. After an error the
/// current keys stay in use.
pub async fn watch_dir(dir: PathBuf, activation: Duration, keys: Arc<SharedKeys>) {
    loop {
        let read = Instant::now();
        tokio::select! {
            () = sleep_until(read + REREAD_INTERVAL) => {}
            () = keys.unknown_key() => sleep_until(read + MIN_REREAD_INTERVAL).await,
        }
        reread(&dir, activation, &keys);
    }
}

fn reread(dir: &Path, activation: Duration, keys: &SharedKeys) {
    match load(dir, activation) {
        Ok(ring) => {
            let current = keys.load();
            if current.has_same_keys(&ring) {
                return;
            }
            for key in ring.keys() {
                let replaced = current.by_number(key.number());
                if replaced.is_some_and(|replaced| replaced.fingerprint() != key.fingerprint()) {
                    tracing::error!(number = key.number(), "signing key was replaced under its number");
                }
            }
            let numbers = |ring: &KeyRing| ring.keys().iter().map(SigningKey::number).collect::<Vec<_>>();
            tracing::info!(before = ?numbers(&current), after = ?numbers(&ring), "signing keys changed");
            keys.replace(ring);
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read the key directory, keeping the current keys"
            );
        }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    number: u8,
    algorithm: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    signing_key: Zeroizing<String>,
    refresh_key: Zeroizing<String>,
}

impl KeyFile {
    fn material(self) -> Result<KeyMaterial, &'static str> {
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| "its keys must be base64");
        Ok(KeyMaterial {
            number: self.number,
            algorithm: Algorithm::from_name(&self.algorithm).ok_or("algorithm is ES256, EdDSA or HS256")?,
            created_at: self.created_at,
            signing: bytes(&self.signing_key)?.into(),
            refresh: bytes(&self.refresh_key)?.into(),
        })
    }
}

fn read_all(dir: &Path) -> Result<Vec<(PathBuf, KeyMaterial)>, KeyFileError> {
    let mut keys = Vec::new();
    for path in key_paths(dir)? {
        match read(&path) {
            Ok(material) => keys.push((path, material)),
            // Retired since the directory was listed. A link to nowhere is still an error.
            Err(KeyFileError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(keys)
}

fn key_paths(dir: &Path) -> Result<Vec<PathBuf>, KeyFileError> {
    let files = names(dir)?.into_iter().filter(|name| name.ends_with(".toml"));
    Ok(files.map(|name| dir.join(name)).collect())
}

fn read(path: &Path) -> Result<KeyMaterial, KeyFileError> {
    secret::check_access(path)?;
    let text = Zeroizing::new(fs::read_to_string(path).map_err(failed(path))?);
    let refused = |expected| KeyFileError::NotAKey { path: path.to_owned(), expected };
    let file: KeyFile = toml::from_str(&text).map_err(|_| {
        refused("it must have number, algorithm, created_at, signing_key and refresh_key, as `sekisho key init` writes them")
    })?;
    file.material().map_err(refused)
}

/// Returns the names of visible files; none if the directory does not exist.
fn names(dir: &Path) -> Result<Vec<String>, KeyFileError> {
    let mut names = all_names(dir)?;
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

fn all_names(dir: &Path) -> Result<Vec<String>, KeyFileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed(dir))?.file_name();
        names.extend(name.into_string().ok());
    }
    Ok(names)
}

/// Returns the highest number that a key has or had, or 0.
fn last_number(dir: &Path) -> Result<u8, KeyFileError> {
    // The keys come first: one that is retired in between has its tombstone before its file is removed.
    let present = read_all(dir)?.iter().map(|(_, key)| key.number).max();
    Ok(present.max(retired_numbers(dir)?.into_iter().max()).unwrap_or(0))
}

/// Returns `true` if a key has or had this number.
fn is_used(dir: &Path, number: u8) -> Result<bool, KeyFileError> {
    // In the order of `last_number`.
    let is_present = read_all(dir)?.iter().any(|(_, key)| key.number == number);
    Ok(is_present || retired_numbers(dir)?.contains(&number))
}

fn retired_numbers(dir: &Path) -> Result<Vec<u8>, KeyFileError> {
    let names = names(dir)?;
    Ok(names.iter().filter_map(|name| number_before(name, RETIRED)).collect())
}

/// Returns the highest claimed number, or 0.
fn last_claim(dir: &Path) -> Result<u8, KeyFileError> {
    let names = all_names(dir)?;
    let claims = names.iter().filter_map(|name| number_before(name.strip_prefix('.')?, CLAIMED));
    Ok(claims.max().unwrap_or(0))
}

fn number_before(name: &str, extension: &str) -> Option<u8> {
    name.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()
}

fn next_number(dir: &Path, last: u8) -> Result<u8, KeyFileError> {
    last.checked_add(1).ok_or_else(|| KeyFileError::Exhausted(dir.to_owned()))
}

/// Writes a new key atomically. Returns `false` if another process has taken the number.
fn add(dir: &Path, number: u8, algorithm: Algorithm, now: OffsetDateTime) -> Result<bool, KeyFileError> {
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let material = KeyMaterial::generate(number, algorithm, now)
        .map_err(|source| KeyFileError::Key { path: dir.to_owned(), source })?;
    let path = dir.join(format!("{number}.toml"));
    let id = crypto::random_id()
        .map_err(|_| KeyFileError::Key { path: dir.to_owned(), source: KeyError::Random })?;
    let temporary = dir.join(format!(".{number}.{id}"));
    write(&temporary, &material).map_err(failed(&temporary))?;
    // Unlike a rename, a hard link never replaces an existing file.
    let linked = fs::hard_link(&temporary, &path);
    fs::remove_file(&temporary).map_err(failed(&temporary))?;
    match linked {
        Ok(()) => sync_dir(dir).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(&path)(error)),
    }
}

fn write(path: &Path, material: &KeyMaterial) -> io::Result<()> {
    let file = KeyFile {
        number: material.number,
        algorithm: material.algorithm.as_str().to_owned(),
        created_at: material.created_at,
        signing_key: STANDARD.encode(material.signing.expose_secret()).into(),
        refresh_key: STANDARD.encode(material.refresh.expose_secret()).into(),
    };
    let text = Zeroizing::new(toml::to_string(&file).map_err(io::Error::other)?);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(HEAD.as_bytes())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> Result<(), KeyFileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> KeyFileError + use<> {
    let path = path.to_owned();
    move |source| KeyFileError::Io { path, source }
}

const CLAIMED: &str = "claimed";
const RETIRED: &str = "retired";
const HEAD: &str = "# Signing key of sekisho. Read access allows signing in as any user.\n";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const ACTIVATION: Duration = Duration::from_secs(120);

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("keys");
        (parent, dir)
    }

    fn folder_with_key() -> (tempfile::TempDir, PathBuf) {
        let (parent, dir) = folder();
        init(&dir, Algorithm::Hs256, 0, NOW).expect("made");
        (parent, dir)
    }

    fn numbers(dir: &Path) -> Vec<u8> {
        list(dir).expect("good keys").iter().map(|key| key.number).collect()
    }

    #[test]
    fn init_makes_one_key_that_only_its_owner_can_read() {
        for algorithm in Algorithm::ALL {
            let (_parent, dir) = folder();
            assert!(matches!(load(&dir, ACTIVATION), Err(KeyFileError::Empty(_))));
            assert_eq!(init(&dir, algorithm, 0, NOW).expect("made"), 1);
            assert!(matches!(init(&dir, algorithm, 0, NOW), Err(KeyFileError::Exists(_))));
            let ring = load(&dir, ACTIVATION).expect("readable");
            assert_eq!(ring.signing(NOW).algorithm(), algorithm);
            let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
            assert_eq!((mode(&dir), mode(&dir.join("1.toml"))), (0o700, 0o600));
            assert_eq!(names(&dir).expect("readable"), ["1.toml"], "no temporary file is left");
        }
    }

    #[test]
    fn of_many_that_init_at_once_one_does() {
        let (_parent, dir) = folder();
        let made: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| usize::from(init(&dir, Algorithm::Hs256, 0, NOW).is_ok())))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!((made, numbers(&dir)), (1, vec![1]));
    }

    #[test]
    fn a_new_key_verifies_at_once_and_signs_later() {
        let (_parent, dir) = folder_with_key();
        assert_eq!(rotate(&dir, Algorithm::EdDsa, 0, NOW).expect("added"), 2);
        let ring = load(&dir, ACTIVATION).expect("readable");
        assert!(ring.by_number(2).is_some());
        assert_eq!(ring.signing(NOW + Duration::from_secs(119)).number(), 1);
        assert_eq!(ring.signing(NOW + ACTIVATION).number(), 2);
    }

    #[test]
    fn numbers_are_never_used_again() {
        let (_parent, dir) = folder_with_key();
        rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added");
        retire(&dir, 2).expect("retired");
        assert_eq!(rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added"), 3);
        retire(&dir, 1).expect("retired");
        assert_eq!(numbers(&dir), [3]);
        assert!(matches!(retire(&dir, 3), Err(KeyFileError::LastKey(3))));
        assert!(matches!(retire(&dir, 2), Err(KeyFileError::Unknown(2))));
    }

    /// B11: rotations beside retirements never take a number twice.
    #[test]
    fn concurrent_rotations_and_retirements_use_each_number_once() {
        let (_parent, dir) = folder_with_key();
        let rotated: Vec<u8> = std::thread::scope(|scope| {
            let rotate_often = || -> Vec<u8> {
                (0..20).map(|_| rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added")).collect()
            };
            let rotating: Vec<_> = (0..4).map(|_| scope.spawn(rotate_often)).collect();
            let retiring = scope.spawn(|| {
                for _ in 0..200 {
                    // Retires the newest key but one, which a rotation has just added.
                    if let [.., newest, _] = numbers(&dir)[..] {
                        let retired = retire(&dir, newest);
                        assert!(matches!(retired, Ok(()) | Err(KeyFileError::Unknown(_))), "{retired:?}");
                    }
                }
            });
            let rotated = rotating.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
            retiring.join().expect("no panic");
            rotated
        });
        let distinct: std::collections::BTreeSet<_> = rotated.iter().collect();
        assert_eq!(distinct.len(), 80, "{rotated:?}");
        for number in 1..=*rotated.iter().max().expect("some") {
            let is_present = dir.join(format!("{number}.toml")).exists();
            let is_retired = dir.join(format!("{number}.retired")).exists();
            assert!(!(is_present && is_retired), "{number}");
        }
    }

    /// B11: a number that was used and retired in the meantime is not taken, nor is one whose rotation was killed.
    #[test]
    fn claimed_numbers_are_passed_over() {
        let (_parent, dir) = folder_with_key();
        assert!(claim(&dir, 2).expect("claimed") && !claim(&dir, 2).expect("claimed before"));
        assert_eq!(rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added"), 3);
        fs::write(dir.join("4.retired"), "").expect("written");
        assert_eq!(rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added"), 5);
        assert_eq!(numbers(&dir), [1, 3, 5]);
        retire(&dir, 5).expect("retired");
        fs::remove_file(dir.join("5.retired")).expect("removed");
        assert_eq!(rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added"), 6, "the claim remains");
    }

    /// B11: two retirements at once leave a key.
    #[test]
    fn concurrent_retirements_leave_a_key() {
        for _ in 0..20 {
            let (_parent, dir) = folder_with_key();
            rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added");
            std::thread::scope(|scope| {
                for number in [1, 2] {
                    let dir = &dir;
                    scope.spawn(move || {
                        let retired = retire(dir, number);
                        assert!(matches!(retired, Ok(()) | Err(KeyFileError::LastKey(_))), "{retired:?}");
                    });
                }
            });
            assert!(!numbers(&dir).is_empty());
        }
    }

    /// B3: the database knows numbers whose files are gone.
    #[test]
    fn numbers_that_the_database_knows_are_not_used_again() {
        let (_parent, dir) = folder();
        assert_eq!(init(&dir, Algorithm::Hs256, 3, NOW).expect("made"), 4);
        assert_eq!(rotate(&dir, Algorithm::Hs256, 3, NOW).expect("added"), 5);
        assert_eq!(rotate(&dir, Algorithm::Hs256, 8, NOW).expect("added"), 9);
        let (_parent, dir) = folder();
        assert!(matches!(init(&dir, Algorithm::Hs256, 255, NOW), Err(KeyFileError::Exhausted(_))));
    }

    #[test]
    fn after_255_keys_it_says_so() {
        let (_parent, dir) = folder_with_key();
        fs::write(dir.join("255.retired"), "").expect("written");
        assert!(matches!(rotate(&dir, Algorithm::Hs256, 0, NOW), Err(KeyFileError::Exhausted(_))));
    }

    /// B12: other users must not be able to change a key file, nor exchange it.
    #[test]
    fn k_4_a_file_that_others_can_change_is_refused() {
        let (_parent, dir) = folder_with_key();
        let path = dir.join("1.toml");
        let set_mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
        };
        for (mode, good, readable) in [
            (0o600, true, false),
            (0o400, true, false),
            (0o644, true, true),
            (0o444, true, true),
            (0o660, false, false),
            (0o602, false, false),
            (0o666, false, false),
        ] {
            set_mode(&path, mode);
            assert_eq!(load(&dir, ACTIVATION).is_ok(), good, "{mode:o}");
            assert_eq!(readable_by_others(&dir).is_ok_and(|keys| keys.len() == 1), readable, "{mode:o}");
        }
        set_mode(&path, 0o600);
        for mode in [0o770, 0o707, 0o777] {
            set_mode(&dir, mode);
            assert!(matches!(load(&dir, ACTIVATION), Err(KeyFileError::Access(_))), "{mode:o}");
        }
    }

    #[test]
    fn a_bad_file_is_named_and_its_contents_are_not_shown() {
        let (_parent, dir) = folder();
        init(&dir, Algorithm::Es256, 0, NOW).expect("made");
        let good = fs::read_to_string(dir.join("1.toml")).expect("readable");
        let line = |name: &str| good.lines().find(|line| line.starts_with(name)).expect("there").to_owned();
        let secret = "c2VjcmV0c2VjcmV0c2VjcmV0";
        for bad in [
            String::new(),
            secret.to_owned(),
            good[..good.len() / 2].to_owned(),
            good.replace("ES256", "RS256"),
            good.replace("ES256", "EdDSA"),
            good.replace("number = 1", "number = 0"),
            good.replace("number = 1", "number = 256"),
            good.replace(&line("refresh_key"), &format!("refresh_key = \"{secret}\"")),
            good.replace(&line("signing_key"), &format!("signing_key = \"{secret}\"")),
            format!("{good}extra = \"{secret}\"\n"),
        ] {
            fs::write(dir.join("1.toml"), &bad).expect("written");
            let error = load(&dir, ACTIVATION).expect_err("must be refused").to_string();
            assert!(error.contains("1.toml") && !error.contains(secret), "{error}");
        }
    }

    /// B14: every key in a key file has to be strong, as `tokens.secret` has.
    #[test]
    fn weak_keys_are_refused() {
        let (_parent, dir) = folder_with_key();
        let path = dir.join("1.toml");
        let good = fs::read_to_string(&path).expect("readable");
        let line = |name: &str| good.lines().find(|line| line.starts_with(name)).expect("there").to_owned();
        let fastapi = b"09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7";
        for weak in [[0; 32], *b"reallyreallyreallyreallyverysafe", *b"r9iMKoe5CRMgvJBBtp4HrqN7QiPpUToj"] {
            for name in ["signing_key", "refresh_key"] {
                let key = format!("{name} = \"{}\"", STANDARD.encode(weak));
                fs::write(&path, good.replace(&line(name), &key)).expect("written");
                let error = load(&dir, ACTIVATION).expect_err("must be refused");
                assert!(matches!(error, KeyFileError::Weak { number: 1, .. }), "{error}");
                assert!(
                    error.to_string().contains("`sekisho key retire 1`") && !error.to_string().contains(&key)
                );
            }
        }
        let key = format!("signing_key = \"{}\"", STANDARD.encode(fastapi));
        fs::write(&path, good.replace(&line("signing_key"), &key)).expect("written");
        assert!(matches!(load(&dir, ACTIVATION), Err(KeyFileError::Weak { number: 1, .. })));
    }

    /// B14: published private keys: RFC 8410, section 10.3, and one of 32 zeros.
    #[test]
    fn published_private_keys_are_refused() {
        let published = STANDARD.decode("MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC");
        let published = published.expect("base64");
        let zeros = [&published[..16], &[0; 32]].concat();
        for signing in [published, zeros] {
            let generated = KeyMaterial::generate(1, Algorithm::EdDsa, NOW).expect("random bytes");
            let material = KeyMaterial { signing: signing.into(), ..generated };
            assert!(matches!(SigningKey::new(&material), Err(KeyError::Weak("signing key", _))));
        }
    }

    #[test]
    fn hidden_files_and_others_are_passed_over() {
        let (_parent, dir) = folder_with_key();
        fs::create_dir(dir.join("..data")).expect("made");
        fs::write(dir.join(".swp.toml"), "x").expect("written");
        fs::write(dir.join("README"), "x").expect("written");
        assert_eq!(numbers(&dir), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_program_learns_of_a_new_key_within_ten_seconds_and_keeps_its_own_on_error() {
        let (_parent, dir) = folder_with_key();
        let keys = Arc::new(SharedKeys::new(load(&dir, ACTIVATION).expect("readable")));
        tokio::spawn(watch_dir(dir.clone(), ACTIVATION, Arc::clone(&keys)));
        tokio::task::yield_now().await;
        rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added");
        tokio::time::sleep(REREAD_INTERVAL + Duration::from_millis(1)).await;
        assert!(keys.load().by_number(2).is_some());

        rotate(&dir, Algorithm::Hs256, 0, NOW).expect("added");
        keys.notify_unknown_key();
        tokio::time::sleep(MIN_REREAD_INTERVAL + Duration::from_millis(1)).await;
        assert!(keys.load().by_number(3).is_some(), "sooner when asked for");

        fs::write(dir.join("1.toml"), "garbage").expect("written");
        tokio::time::sleep(REREAD_INTERVAL * 3).await;
        assert_eq!(keys.load().keys().len(), 3);
    }

    /// B3: a file with another key of the same number.
    #[tokio::test(start_paused = true)]
    async fn key_replaced_under_its_number_is_loaded() {
        let (_parent, dir) = folder_with_key();
        let keys = Arc::new(SharedKeys::new(load(&dir, ACTIVATION).expect("readable")));
        let before = Arc::clone(&keys.load());
        tokio::spawn(watch_dir(dir.clone(), ACTIVATION, Arc::clone(&keys)));
        tokio::time::sleep(REREAD_INTERVAL * 2).await;
        assert!(Arc::ptr_eq(&before, &keys.load()), "nothing has changed");

        let (_parent, other) = folder_with_key();
        fs::rename(other.join("1.toml"), dir.join("1.toml")).expect("moved");
        tokio::time::sleep(REREAD_INTERVAL + Duration::from_millis(1)).await;
        let after = Arc::clone(&keys.load());
        assert!(!after.has_same_keys(&before));
        assert_eq!(after.keys().len(), 1);
    }
}
