//! Fingerprints of the signing keys, kept in the database.
//!
//! A token names its key by a number. If replicas had different keys under one number, each would reject
//! the tokens of the other, and a key that was replaced because it leaked would stay in use. The first
//! replica that loads a key records its fingerprint, and the others compare theirs. A fingerprint reveals
//! nothing about the key.

use super::keys::{KeyRing, SigningKey};
use super::store::{SessionStore, SettingStore, StoreError};

/// Error of [`register`] and [`check`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRegistryError {
    /// The key differs from the recorded one.
    #[error(
        "key {0} differs from the one that the database knows under this number: restore the former key; or, to \
         replace it, remove its file and run `sekisho key init` or `sekisho key rotate`, which take the next \
         number; after a change of tokens.secret, run `sekisho key retire {0}`"
    )]
    Mismatch(u8),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Records the fingerprints of new keys, and compares those of known ones.
///
/// # Errors
///
/// [`KeyRegistryError::Mismatch`] with the first key that differs.
pub async fn register(settings: &dyn SettingStore, ring: &KeyRing) -> Result<(), KeyRegistryError> {
    // First, so that a process with the keys of another deployment records none.
    check(settings, ring).await?;
    for key in ring.keys() {
        let recorded = settings.get_or_insert_setting(&setting_name(key.number()), key.fingerprint()).await?;
        compare(key, &recorded)?;
    }
    Ok(())
}

/// Compares the fingerprints of known keys, and records none.
///
/// # Errors
///
/// [`KeyRegistryError::Mismatch`] with the first key that differs.
pub async fn check(settings: &dyn SettingStore, ring: &KeyRing) -> Result<(), KeyRegistryError> {
    for (name, fingerprint) in settings.list_settings(SETTING_PREFIX).await? {
        if let Some(key) = number_in(&name).and_then(|number| ring.by_number(number)) {
            compare(key, &fingerprint)?;
        }
    }
    Ok(())
}

/// Returns the highest number that a recorded key has, or the key of a session, or 0.
///
/// # Errors
///
/// If the store fails.
pub async fn last_number(settings: &dyn SettingStore, sessions: &dyn SessionStore) -> Result<u8, StoreError> {
    let recorded = settings.list_settings(SETTING_PREFIX).await?;
    let recorded = recorded.iter().filter_map(|(name, _)| number_in(name)).max();
    let used = sessions.max_key_number().await?;
    Ok(recorded.max(used).unwrap_or(0))
}

/// Deletes the fingerprint of a key, so that another key can have its number.
///
/// For `tokens.secret`, whose key always has the number 1.
///
/// # Errors
///
/// If the store fails.
pub async fn forget(settings: &dyn SettingStore, number: u8) -> Result<(), StoreError> {
    settings.delete_setting(&setting_name(number)).await.map(drop)
}

fn compare(key: &SigningKey, recorded: &str) -> Result<(), KeyRegistryError> {
    if key.fingerprint() == recorded { Ok(()) } else { Err(KeyRegistryError::Mismatch(key.number())) }
}

fn setting_name(number: u8) -> String {
    format!("{SETTING_PREFIX}{number}")
}

fn number_in(name: &str) -> Option<u8> {
    name.strip_prefix(SETTING_PREFIX)?.parse().ok()
}

/// Prefix of the settings with fingerprints. The number of the key follows.
const SETTING_PREFIX: &str = "tokens.key.";

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::services::keys::{Algorithm, KeyMaterial};
    use crate::services::memory::MemoryStore;
    use crate::services::test_support::ring;

    fn material(number: u8) -> KeyMaterial {
        KeyMaterial::generate(number, Algorithm::Hs256, OffsetDateTime::UNIX_EPOCH).expect("random bytes")
    }

    /// B3: two replicas with different keys under one number.
    #[tokio::test]
    async fn key_that_differs_under_its_number_is_a_mismatch() {
        let store = MemoryStore::default();
        let (first, second) = (material(1), material(2));
        register(&store, &ring([&first])).await.expect("recorded");
        check(&store, &ring([&material(2)])).await.expect("an unknown number");
        register(&store, &ring([&first, &second])).await.expect("recorded");
        check(&store, &ring([&second])).await.expect("the same key");
        for other in [ring([&first, &material(2)]), ring([&material(2)])] {
            for result in [register(&store, &other).await, check(&store, &other).await] {
                assert!(matches!(result, Err(KeyRegistryError::Mismatch(2))), "{result:?}");
            }
        }
        assert_eq!(last_number(&store, &store).await.expect("the store responds"), 2);
        forget(&store, 2).await.expect("deleted");
        register(&store, &ring([&material(2)])).await.expect("recorded anew");
    }

    #[test]
    fn fingerprint_depends_on_all_parts_of_a_key() {
        let fingerprint =
            |material: &KeyMaterial| SigningKey::new(material).expect("a key").fingerprint().to_owned();
        let (one, other) = (material(1), material(1));
        let expected = fingerprint(&one);
        assert_eq!(fingerprint(&one.clone()), expected);
        assert_ne!(fingerprint(&KeyMaterial { signing: other.signing.clone(), ..one.clone() }), expected);
        assert_ne!(fingerprint(&KeyMaterial { refresh: other.refresh.clone(), ..one.clone() }), expected);
        assert_eq!(expected.len(), 32);
    }
}
