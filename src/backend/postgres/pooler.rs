//! Recognition of a connection pooler that assigns a server connection for each transaction.
//!
//! The driver does not expose the process id that a server sends at the start of a connection, so it cannot
//! be compared with `pg_backend_pid()`. The process ids of two open connections decide instead: without a
//! pooler and behind one that pools sessions, each connection keeps a process of its own.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};

use super::address::Address;

/// The connections of a check, in the order of their use. Uneven, since a pooler may assign two server
/// connections in turn.
const ORDER: [usize; 8] = [0, 1, 0, 0, 1, 0, 1, 1];

/// Returns `true` if transactions of one connection run in several server processes, or those of several
/// connections in one. Sets nothing, and prepares no statement.
pub(super) async fn pools_transactions(
    first: &mut PgConnection,
    address: &Address,
) -> Result<bool, sqlx::Error> {
    let mut second = address.connect().await?;
    let mut processes = [None, None];
    for index in ORDER {
        let connection = if index == 0 { &mut *first } else { &mut second };
        let process = backend_process(connection).await?;
        let own = *processes[index].get_or_insert(process);
        if own != process || processes[1 - index] == Some(process) {
            return Ok(true);
        }
    }
    second.close().await?;
    Ok(false)
}

/// Returns the id of the process that runs this statement.
async fn backend_process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    connection.fetch_one("SELECT pg_backend_pid()").await?.try_get(0)
}
