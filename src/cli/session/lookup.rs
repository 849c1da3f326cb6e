//! Lookup of users by e-mail address.

use crate::backend::db::Stores;
use crate::cli::error::CliError;
use crate::identity::Subject;

pub(super) async fn find_user(stores: &Stores, email: &str) -> Result<Subject, CliError> {
    let found = stores.users.find_user_by_email(email).await?;
    found.map(|user| user.id.into()).ok_or_else(|| CliError::Refused(format!("there is no user {email}")))
}
