//! Messages about errors of PostgreSQL, with the remedy.

use std::io;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnectOptions;

/// Describes an error and its remedy. `options` are those of the connection.
///
/// The text of the driver adds a line number of the server's source code.
pub(super) fn describe(error: &sqlx::Error, options: &PgConnectOptions) -> String {
    match error {
        sqlx::Error::Database(error) => match database_remedy(&**error, options) {
            Some(remedy) => format!("{}: {remedy}", error.message()),
            None => error.message().to_owned(),
        },
        sqlx::Error::Io(cause) => match io_remedy(cause) {
            Some(remedy) => format!("{cause}: {remedy}"),
            None => error.to_string(),
        },
        sqlx::Error::Tls(cause) => format!("{cause}: {}", tls_remedy(&cause.to_string())),
        sqlx::Error::PoolTimedOut => {
            "no response in time: check host and port in database.url, and firewalls between".to_owned()
        }
        error => error.to_string(),
    }
}

/// Returns `true` if the server cannot be reached, or does not accept connections at the moment. It may be starting.
pub(super) fn is_unreachable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        // cannot_connect_now
        sqlx::Error::Database(error) => error.code().as_deref() == Some("57P03"),
        _ => false,
    }
}

/// Returns the remedy for an error by its code, see
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn database_remedy(error: &dyn DatabaseError, options: &PgConnectOptions) -> Option<String> {
    let code = error.code()?;
    let message = error.message();
    let user = options.get_username();
    let database = options.get_database().unwrap_or(user);
    let remedy = match &*code {
        "28000" if message.contains("no encryption") || message.contains("SSL off") => {
            "the server requires TLS: add sslmode=verify-full to the parameters of database.url".to_owned()
        }
        "28000" if message.contains("pg_hba.conf") => {
            format!("allow the user {user} to connect to {database} from this machine in pg_hba.conf")
        }
        "28000" => {
            format!("create the user: CREATE ROLE \"{user}\" LOGIN PASSWORD '…', or check database.url")
        }
        "28P01" => "check user and password in database.url".to_owned(),
        "3D000" => format!("create it: CREATE DATABASE \"{database}\", or check database.url"),
        "42501" => privilege_remedy(message, user, database),
        // Duplicate table, column, function and object.
        "42P07" | "42701" | "42710" | "42723" => {
            "the schema myapi belongs to another application: use a database of its own for sekisho"
                .to_owned()
        }
        "53300" => "lower database.max_connections of the replicas, or raise max_connections of the server"
            .to_owned(),
        "57P03" => "wait for the server with database.wait".to_owned(),
        _ => return None,
    };
    Some(remedy)
}

fn privilege_remedy(message: &str, user: &str, database: &str) -> String {
    if message.contains("for database") {
        return format!(
            "run `sekisho migrate` as a user who may create the schema myapi, or GRANT CREATE ON DATABASE \
             \"{database}\" TO \"{user}\""
        );
    }
    if message.contains("for schema") {
        return format!(
            "GRANT USAGE, CREATE ON SCHEMA myapi TO \"{user}\", or run `sekisho migrate` as its owner"
        );
    }
    if message.contains("must be owner") {
        return "run `sekisho migrate` as the owner of the schema myapi".to_owned();
    }
    format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA myapi TO \"{user}\", or run `sekisho migrate` \
         as their owner"
    )
}

fn io_remedy(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(
            "start PostgreSQL, or check host and port in database.url; database.wait waits for a server that is starting",
        ),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            Some("check the directory of the socket in database.url")
        }
        _ if error.to_string().contains("lookup") => Some("check the host in database.url"),
        _ => None,
    }
}

fn tls_remedy(message: &str) -> &'static str {
    if message.contains("does not support TLS") {
        "turn on ssl on the server, or on a trusted network set sslmode=disable in database.url"
    } else if message.contains("UnknownIssuer") || message.contains("CaUsedAsEndEntity") {
        "set sslrootcert in database.url to the file of the authority that issued the server's certificate"
    } else {
        "check sslmode, sslrootcert and the host in database.url"
    }
}
