//! The program while its configuration changes, while it stops, and while another takes over, each under
//! load.

mod load;
mod notified;
mod reload;
mod under_load;

/// A configuration with these keys in `[server]`, and this after all else.
pub(crate) fn config(server: &str, rest: &str) -> String {
    format!("[server]\nlisten = '127.0.0.1:0'\n{server}\n[admin]\nlisten = '127.0.0.1:0'\n{rest}\n")
}

/// A route for anyone.
pub(crate) fn open_route(path: &str, upstream: &str) -> String {
    format!("[[routes]]\npath = '{path}'\nauth = 'none'\nupstreams = ['{upstream}']\n")
}
