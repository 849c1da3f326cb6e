//! `sekisho demo`: everything in one place, to try it out.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::backend::config::{Listen, Sources};

/// Arguments of `sekisho demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Listen on this address
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:8080")]
    pub listen: Listen,
}

impl DemoArgs {
    /// The demo's configuration, with database and keys in `dir`. It looks at nothing else on the
    /// machine but `file`, if that is given: a demo must not find somebody's real database.
    #[must_use]
    pub fn sources(&self, dir: &Path, file: Option<PathBuf>) -> Sources {
        let mut flags = vec![
            ("server.listen", self.listen.to_string()),
            ("server.builtin", r#"["auth", "token", "movies", "docs"]"#.to_owned()),
            ("admin.listen", "127.0.0.1:0".to_owned()),
            ("database.url", format!("sqlite://{}", dir.join("demo.db").display())),
            ("tokens.key_dir", dir.join("keys").display().to_string()),
            ("tokens.access_ttl", "1m".to_owned()),
            ("session.grace", "30s".to_owned()),
        ];
        if !self.listen.is_loopback() {
            // As in a container whose port is published on this machine.
            flags.push(("server.public_origin", format!("http://localhost:{}", self.listen.port())));
        }
        let flags = flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Sources { file, flags, ..Sources::default() }
    }
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho demo                            on http://localhost:8080
  sekisho demo --listen localhost:9000

It prints the address and the sample sign-in. Access tokens live a minute, so that renewals can be
watched; nothing of it is fit for production.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::config::Config;

    #[test]
    fn its_configuration_is_good() {
        for (listen, origin) in [
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1:0", "http://127.0.0.1:1"),
            ("0.0.0.0:8080", "http://localhost:8080"),
        ] {
            let args = DemoArgs { listen: listen.parse().unwrap() };
            let config = Config::load(&args.sources(Path::new("/tmp/x"), None)).unwrap().config;
            assert_eq!(config.server.public_origin_at("127.0.0.1:1".parse().unwrap()).as_str(), origin);
        }
    }
}
