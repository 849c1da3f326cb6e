//! Reload, shutdown and handover, also under load.

mod load;
mod reload;
mod service_manager;
mod under_load;

/// Returns a configuration with these keys in `[server]`, followed by `rest`.
pub(crate) fn config(server: &str, rest: &str) -> String {
    format!("[server]\nlisten = '127.0.0.1:0'\n{server}\n[admin]\nlisten = '127.0.0.1:0'\n{rest}\n")
}

/// Returns a route without authentication.
pub(crate) fn open_route(path: &str, upstream: &str) -> String {
    format!("[[routes]]\npath = '{path}'\nauth = 'none'\nupstreams = ['{upstream}']\n")
}
