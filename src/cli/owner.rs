//! Commands that write to an SQLite database run as the user that the server runs as.

use std::io;
use std::path::Path;

use super::error::CliError;

/// Refuses to go on if `database` exists and belongs to another user: SQLite would make files beside
/// it that the server can't write.
///
/// # Errors
///
/// [`CliError::Refused`], which says how to run the command instead.
#[cfg(unix)]
pub fn check(database: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::MetadataExt;

    let owner = match database.metadata() {
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CliError::failed(format!("can't read {}", database.display()), error)),
    };
    let own = rustix::process::geteuid().as_raw();
    if owner == own {
        return Ok(());
    }
    let file = database.display();
    Err(CliError::Refused(format!(
        "{file} belongs to user {owner}, and this command runs as user {own}, who would leave files that the \
         server can't write: run it as the owner, with sudo -u '#{owner}' sekisho …"
    )))
}

/// Elsewhere files have no such owners.
///
/// # Errors
///
/// None.
#[cfg(not(unix))]
pub fn check(_database: &Path) -> Result<(), CliError> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn another_user_s_database_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sekisho.db");
        assert!(check(&file).is_ok(), "one that isn't there yet");
        std::fs::write(&file, "").unwrap();
        assert!(check(&file).is_ok());
        // Only root can give a file away.
        if chown(&file, Some(12345), None).is_ok() {
            let error = check(&file).expect_err("belongs to another user").to_string();
            assert!(error.contains("belongs to user 12345") && error.contains("sudo -u '#12345'"), "{error}");
        }
    }
}
