//! Messages about errors of PostgreSQL, with the remedy.

use std::io;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnectOptions;

use crate::backend::namespace::Namespace;

/// The words of messages for those who can act on them: operators of the gateway, or programmers.
#[derive(Clone, Debug)]
pub(crate) struct Wording {
    /// The URL of the database.
    url: &'static str,
    /// The maximum number of connections.
    max_connections: &'static str,
    /// The remedy for a server that is starting.
    wait: &'static str,
    /// The remedy for a server that may be starting.
    starting: &'static str,
    /// The application of migrations.
    migrate: &'static str,
    /// The remedy if the schema has tables of the same names.
    other_schema: &'static str,
    /// The name of the schema.
    schema: String,
}

impl Wording {
    /// Returns the words for operators of the gateway.
    #[cfg(feature = "server")]
    pub(crate) fn gateway() -> Self {
        Self {
            url: "database.url",
            max_connections: "database.max_connections",
            wait: "wait for the server with database.wait",
            starting: "database.wait waits for a server that is starting",
            migrate: "run `sekisho migrate`",
            other_schema: "use a database of its own for sekisho",
            schema: "myapi".to_owned(),
        }
    }

    /// Returns the words for programmers.
    pub(super) fn library(namespace: &Namespace) -> Self {
        Self {
            url: "the options of the connection",
            max_connections: "with_max_connections",
            wait: "the server is starting: open the store again",
            starting: "it may be starting: open the store again",
            migrate: "call migrate()",
            other_schema: "choose another namespace",
            schema: namespace.to_string(),
        }
    }
}

/// Describes an error and its remedy. `options` are those of the connection.
///
/// The text of the driver adds a line number of the server's source code.
pub(super) fn describe(error: &sqlx::Error, options: &PgConnectOptions, wording: &Wording) -> String {
    match error {
        sqlx::Error::Database(error) => match database_remedy(&**error, options, wording) {
            Some(remedy) => format!("{}: {remedy}", error.message()),
            None => error.message().to_owned(),
        },
        sqlx::Error::Io(cause) => match io_remedy(cause, wording) {
            Some(remedy) => format!("{cause}: {remedy}"),
            None => error.to_string(),
        },
        sqlx::Error::Tls(cause) => format!("{cause}: {}", tls_remedy(&cause.to_string(), wording)),
        sqlx::Error::PoolTimedOut => {
            format!("no response in time: check host and port in {}, and firewalls between", wording.url)
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
fn database_remedy(
    error: &dyn DatabaseError,
    options: &PgConnectOptions,
    wording: &Wording,
) -> Option<String> {
    let Wording { url, max_connections, wait, other_schema, schema, .. } = wording;
    let code = error.code()?;
    let message = error.message();
    let user = options.get_username();
    let database = options.get_database().unwrap_or(user);
    let remedy = match &*code {
        "28000" if message.contains("no encryption") || message.contains("SSL off") => {
            format!("the server requires TLS: add sslmode=verify-full to the parameters of {url}")
        }
        "28000" if message.contains("pg_hba.conf") => {
            format!("allow the user {user} to connect to {database} from this machine in pg_hba.conf")
        }
        "28000" => {
            format!("create the user: CREATE ROLE \"{user}\" LOGIN PASSWORD '…', or check {url}")
        }
        "28P01" => format!("check user and password in {url}"),
        "3D000" => format!("create it: CREATE DATABASE \"{database}\", or check {url}"),
        "42501" => privilege_remedy(message, user, database, wording),
        // Duplicate table, column, function and object.
        "42P07" | "42701" | "42710" | "42723" => {
            format!("the schema {schema} belongs to another application: {other_schema}")
        }
        "53300" => format!("lower {max_connections} of the replicas, or raise max_connections of the server"),
        "57P03" => (*wait).to_owned(),
        _ => return None,
    };
    Some(remedy)
}

fn privilege_remedy(message: &str, user: &str, database: &str, wording: &Wording) -> String {
    let Wording { migrate, schema, .. } = wording;
    if message.contains("for database") {
        return format!(
            "{migrate} as a user who may create the schema {schema}, or GRANT CREATE ON DATABASE \"{database}\" TO \
             \"{user}\""
        );
    }
    if message.contains("for schema") {
        return format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO \"{user}\", or {migrate} as its owner");
    }
    if message.contains("must be owner") {
        return format!("{migrate} as the owner of the schema {schema}");
    }
    format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO \"{user}\", or {migrate} as their \
         owner"
    )
}

fn io_remedy(error: &io::Error, wording: &Wording) -> Option<String> {
    let url = wording.url;
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Some(format!("start PostgreSQL, or check host and port in {url}; {}", wording.starting))
        }
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            Some(format!("check the directory of the socket in {url}"))
        }
        _ if error.to_string().contains("lookup") => Some(format!("check the host in {url}")),
        _ => None,
    }
}

fn tls_remedy(message: &str, wording: &Wording) -> String {
    let url = wording.url;
    if message.contains("does not support TLS") {
        format!("turn on ssl on the server, or on a trusted network set sslmode=disable in {url}")
    } else if message.contains("UnknownIssuer") || message.contains("CaUsedAsEndEntity") {
        format!("set sslrootcert in {url} to the file of the authority that issued the server's certificate")
    } else {
        format!("check sslmode, sslrootcert and the host in {url}")
    }
}
