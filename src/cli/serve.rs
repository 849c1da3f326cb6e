//! `sekisho serve`.

use clap::Args;

use crate::backend::config::{Listen, Sources};

/// Arguments of `sekisho serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Listen on this address instead of server.listen
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<Listen>,
}

impl ServeArgs {
    /// Adds what the flags say, as the layer that wins.
    pub fn add_to(&self, sources: &mut Sources) {
        let listen = self.listen.as_ref().map(|listen| ("server.listen".to_owned(), listen.to_string()));
        sources.flags.extend(listen);
    }
}
