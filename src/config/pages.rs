//! `[pages]`.

use std::path::PathBuf;

use url::Url;

use super::error::ConfigError;
use super::raw::RawSettings;
use super::server::{BuiltinRoutes, Server};
use crate::pages::{PagesSettings, SignIn};

/// Reads the settings of the pages for people: `[pages]`.
pub(super) fn read(settings: &RawSettings, server: &Server) -> Result<PagesSettings, ConfigError> {
    let languages = settings.required(LANGUAGES, settings.list(LANGUAGES, language_tag))?;
    if languages.is_empty() {
        return Err(settings.invalid(LANGUAGES, "expected at least one language"));
    }
    Ok(PagesSettings {
        sign_in: sign_in(settings, server)?,
        title: title(settings)?,
        logo: path(settings, "pages.logo")?,
        accent: settings.parsed("pages.accent")?,
        stylesheet: path(settings, "pages.stylesheet")?,
        templates: path(settings, "pages.templates")?,
        languages,
    })
}

fn sign_in(settings: &RawSettings, server: &Server) -> Result<SignIn, ConfigError> {
    match settings.required(SIGN_IN, settings.text(SIGN_IN))? {
        "builtin" if server.has(BuiltinRoutes::Auth) => Ok(SignIn::Builtin),
        "builtin" => {
            let problem = r#"server.builtin lacks "auth": add it, or set pages.sign_in to "off" or to a page of your own"#;
            Err(settings.invalid(SIGN_IN, problem))
        }
        "off" => Ok(SignIn::Off),
        page if is_page(page) => Ok(SignIn::Url(page.to_owned())),
        _ => {
            let problem =
                r#"expected "builtin", "off", or a page such as /login or https://login.example.com/"#;
            Err(settings.invalid(SIGN_IN, problem))
        }
    }
}

/// Returns `true` for a path of the public origin and for an absolute URL, both without a fragment.
fn is_page(text: &str) -> bool {
    let is_printable =
        text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\' | b'@'));
    let is_path = text.starts_with('/') && !text.starts_with("//");
    let is_url = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    is_printable && (is_path || (is_url && Url::parse(text).is_ok()))
}

fn title(settings: &RawSettings) -> Result<Option<String>, ConfigError> {
    let Some(title) = settings.text("pages.title")? else { return Ok(None) };
    let is_short = (1..=MAX_TITLE_CHARS).contains(&title.trim().chars().count());
    if !is_short || title.chars().any(char::is_control) {
        let problem = format!("expected 1 to {MAX_TITLE_CHARS} characters on one line");
        return Err(settings.invalid("pages.title", problem));
    }
    Ok(Some(title.trim().to_owned()))
}

fn path(settings: &RawSettings, key: &str) -> Result<Option<PathBuf>, ConfigError> {
    match settings.text(key)? {
        Some(path) if path.is_empty() || path.chars().any(char::is_control) => {
            Err(settings.invalid(key, "expected the path of a file or directory"))
        }
        path => Ok(path.map(PathBuf::from)),
    }
}

/// Checks a language tag (BCP 47). It is also the name of a file.
fn language_tag(text: &str) -> Result<String, String> {
    let is_subtag =
        |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let is_tag = text.len() <= MAX_TAG_LEN && text.split('-').all(is_subtag);
    is_tag.then(|| text.to_owned()).ok_or_else(|| "expected a language such as en or pt-BR".to_owned())
}

const SIGN_IN: &str = "pages.sign_in";
const LANGUAGES: &str = "pages.languages";

/// Maximum length of the title in characters.
const MAX_TITLE_CHARS: usize = 100;

/// Maximum length of a language tag in bytes (RFC 5646 section 4.4.1).
const MAX_TAG_LEN: usize = 35;
