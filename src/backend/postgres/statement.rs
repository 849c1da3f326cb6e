//! A statement with its parameters, ready to run on any connection.

use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::{Execute, Postgres, SqlStr};

/// A statement with encoded parameters. A clone can run again on another connection.
#[derive(Clone, Debug)]
pub(super) struct PreparedQuery {
    sql: SqlStr,
    arguments: Option<PgArguments>,
    is_named: bool,
}

impl PreparedQuery {
    /// Encodes the parameters of `query`.
    ///
    /// Without `is_named` the server keeps no prepared statement: behind a pooler that pools transactions, it
    /// would stay on a server connection that others use next.
    pub(super) fn new<'q>(
        mut query: impl Execute<'q, Postgres>,
        is_named: bool,
    ) -> Result<Self, sqlx::Error> {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        let is_named = is_named && query.persistent();
        Ok(Self { sql: query.sql(), arguments, is_named })
    }
}

impl Execute<'_, Postgres> for PreparedQuery {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.is_named
    }
}
