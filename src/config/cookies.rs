//! `[cookies]`.

use super::error::ConfigError;
use super::server::Server;
use super::settings::Settings;
use crate::layer::SameSite;

/// The two cookies: `[cookies]`. Always `HttpOnly`, with `Path=/` and without `Domain`.
#[derive(Clone, Debug)]
pub struct Cookies {
    /// The access token's name.
    pub access_name: String,
    /// The refresh token's name, another one.
    pub refresh_name: String,
    /// `SameSite`.
    pub same_site: SameSite,
    /// `Secure`; without it both listener and public origin are on loopback.
    pub secure: bool,
}

impl Cookies {
    pub(super) fn read(settings: &Settings, server: &Server) -> Result<Self, ConfigError> {
        let secure = settings.required(SECURE, settings.boolean(SECURE))?;
        let words = [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
        let same_site = settings.required(SAME_SITE, settings.one_of(SAME_SITE, &words))?;
        check_secure(settings, secure, server)?;
        if same_site == SameSite::None && !secure {
            let problem = "browsers refuse that without Secure: set cookies.secure = true, or use lax";
            return Err(settings.invalid(SAME_SITE, problem));
        }
        let access_name = name(settings, "cookies.access_name", "access_token", secure)?;
        let refresh_name = name(settings, "cookies.refresh_name", "refresh_token", secure)?;
        if access_name == refresh_name {
            return Err(
                settings.invalid("cookies.refresh_name", "expected another name than cookies.access_name")
            );
        }
        Ok(Self { access_name, refresh_name, same_site, secure })
    }
}

fn check_secure(settings: &Settings, secure: bool, server: &Server) -> Result<(), ConfigError> {
    let local = server.public_origin.as_ref().is_none_or(|origin| origin.is_loopback());
    let https = server.public_origin.as_ref().is_some_and(|origin| origin.is_https());
    if !secure && !server.listen.is_loopback() {
        let problem = format!("server.listen = {} isn't a loopback address: set it to true", server.listen);
        return Err(settings.invalid(SECURE, problem));
    }
    if !secure && !local {
        return Err(settings.invalid(SECURE, "server.public_origin isn't on loopback: set it to true"));
    }
    if secure && !https && !local {
        let problem = "browsers refuse Secure cookies over plain http: set server.tls_certificate or put TLS in front, and say https://…";
        return Err(settings.invalid("server.public_origin", problem));
    }
    Ok(())
}

/// The name under `key`, or its default: `plain`, with the prefix that goes with Secure.
fn name(settings: &Settings, key: &str, plain: &str, secure: bool) -> Result<String, ConfigError> {
    let Some(name) = settings.text(key)? else {
        return Ok(if secure { format!("__Host-{plain}") } else { plain.to_owned() });
    };
    // RFC 6265 section 4.1.1: a token of HTTP.
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(legal) {
        let problem =
            format!("expected up to {LONGEST_NAME} letters, digits and -_. as a cookie's name may have");
        return Err(settings.invalid(key, problem));
    }
    // Browsers take the prefixes in any case.
    let lower = name.to_ascii_lowercase();
    if !secure && (lower.starts_with("__host-") || lower.starts_with("__secure-")) {
        let problem = "the prefix needs Secure: set cookies.secure = true, or leave the prefix out";
        return Err(settings.invalid(key, problem));
    }
    Ok(name.to_owned())
}

const SECURE: &str = "cookies.secure";
const SAME_SITE: &str = "cookies.same_site";

/// Browsers keep 4,096 bytes of name and value together.
const LONGEST_NAME: usize = 128;
