//! `[cookies]`.

use super::error::ConfigError;
use super::raw::RawSettings;
use super::server::Server;
use crate::http_headers::is_token_byte;
use crate::layer::{CookiePolicy, SameSite};

/// The session cookies: `[cookies]`. They are always `HttpOnly`, with `Path=/` and without `Domain`.
#[derive(Clone, Debug)]
pub struct Cookies {
    /// The name of the access token cookie.
    pub access_name: String,
    /// The name of the refresh token cookie. It differs from `access_name`.
    pub refresh_name: String,
    /// The `SameSite` attribute.
    pub same_site: SameSite,
    /// True if the cookies have the `Secure` attribute. `false` is accepted on loopback only.
    pub secure: bool,
    /// True if the cookies have the `Partitioned` attribute. It requires `SameSite=None` and `Secure`.
    pub partitioned: bool,
}

impl Cookies {
    /// Removes `Secure` from the cookies and gives them the names that they have without it, for the demo.
    pub(crate) fn allow_http(&mut self) {
        self.secure = false;
        self.partitioned = false;
        ACCESS_NAME.clone_into(&mut self.access_name);
        REFRESH_NAME.clone_into(&mut self.refresh_name);
    }

    pub(super) fn read(settings: &RawSettings, server: &Server) -> Result<Self, ConfigError> {
        let secure = settings.required(SECURE, settings.boolean(SECURE))?;
        let choices = [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
        let same_site = settings.required(SAME_SITE, settings.one_of(SAME_SITE, &choices))?;
        check_secure(settings, secure, server)?;
        if same_site == SameSite::None && !secure {
            let problem = "browsers reject it without Secure: set cookies.secure = true, or use lax";
            return Err(settings.invalid(SAME_SITE, problem));
        }
        let partitioned = settings.required(PARTITIONED, settings.boolean(PARTITIONED))?;
        if partitioned && same_site != SameSite::None {
            let problem = r#"only cookies with SameSite=None are sent within pages of another site: set cookies.same_site = "none""#;
            return Err(settings.invalid(PARTITIONED, problem));
        }
        let access_name = name(settings, "cookies.access_name", ACCESS_NAME, secure)?;
        let refresh_name = name(settings, "cookies.refresh_name", REFRESH_NAME, secure)?;
        if access_name == refresh_name {
            return Err(
                settings.invalid("cookies.refresh_name", "expected another name than cookies.access_name")
            );
        }
        Ok(Self { access_name, refresh_name, same_site, secure, partitioned })
    }
}

fn check_secure(settings: &RawSettings, secure: bool, server: &Server) -> Result<(), ConfigError> {
    let is_loopback = server.public_origin.as_ref().is_none_or(|origin| origin.is_loopback());
    let is_https = server.public_origin.as_ref().is_some_and(|origin| origin.is_https());
    if !secure && !server.listen.is_loopback() {
        let problem = format!("server.listen = {} is not a loopback address: set it to true", server.listen);
        return Err(settings.invalid(SECURE, problem));
    }
    if !secure && !is_loopback {
        return Err(
            settings.invalid(SECURE, "server.public_origin is not a loopback address: set it to true")
        );
    }
    if secure && !is_https && !is_loopback {
        let problem = "browsers reject Secure cookies over http: terminate TLS here (server.tls_certificate) or in a proxy in \
                       front, and use https://";
        return Err(settings.invalid("server.public_origin", problem));
    }
    Ok(())
}

/// Returns the cookie name under `key`. The default is `plain`, with the prefix `__Host-` if `secure`.
fn name(settings: &RawSettings, key: &str, plain: &str, secure: bool) -> Result<String, ConfigError> {
    let Some(name) = settings.text(key)? else {
        return Ok(if secure { format!("__Host-{plain}") } else { plain.to_owned() });
    };
    let max = CookiePolicy::MAX_NAME_LEN;
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        let problem = format!("expected a cookie name of at most {max} letters, digits and -_.");
        return Err(settings.invalid(key, problem));
    }
    if name.len() > max {
        let len = name.len();
        let problem =
            format!("the name has {len} bytes, but at most {max} are allowed: choose a shorter one");
        return Err(settings.invalid(key, problem));
    }
    // Browsers recognise the prefixes in any case.
    let lower = name.to_ascii_lowercase();
    if !secure && (lower.starts_with("__host-") || lower.starts_with("__secure-")) {
        let problem = "the prefix requires Secure: set cookies.secure = true, or remove the prefix";
        return Err(settings.invalid(key, problem));
    }
    Ok(name.to_owned())
}

/// Names of cookies without `Secure`.
const ACCESS_NAME: &str = "access_token";
const REFRESH_NAME: &str = "refresh_token";

const SECURE: &str = "cookies.secure";
const SAME_SITE: &str = "cookies.same_site";
const PARTITIONED: &str = "cookies.partitioned";
