//! Loads the files of pages and renders them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use minijinja::value::Serde;
use minijinja::{Value, context};

use super::asset::{Asset, image_type};
use super::error::PagesError;
use super::files::{ASSETS, OperatorFiles, read};
use super::headers::set_page_headers;
use super::language::{Language, choose};
use super::page::{Ending, Page};
use super::settings::{PagesSettings, SignIn, Site};
use super::templates::{Templates, template_error};
use crate::request_context::{RequestContext, RequestId};

/// Renders pages. Cheap to clone.
///
/// ```
/// use http::StatusCode;
/// use sekisho::pages::{ErrorPage, Page, Pages, PagesSettings, Site};
///
/// let site = Site { host: "app.example.com", auth_prefix: "/auth", serves_pages: true };
/// let pages = Pages::new(&PagesSettings::default(), site)?;
/// let language = pages.language(None);
/// let response = pages.render::<String>(&Page::Error(ErrorPage::new(StatusCode::NOT_FOUND)), &language);
/// assert_eq!(response.status(), 404);
/// assert!(response.body().contains(r#"<html lang="en""#));
/// # Ok::<(), sekisho::pages::PagesError>(())
/// ```
#[derive(Clone)]
pub struct Pages(Arc<Inner>);

struct Inner {
    templates: Templates,
    languages: Vec<Language>,
    /// Name, logo and stylesheets of the service.
    site: Value,
    /// The addresses of the pages.
    paths: Value,
    /// The texts for the end of the session while a page is open.
    endings: Value,
    /// The files below [`Pages::ASSETS`].
    assets: Vec<(String, Asset)>,
}

impl Pages {
    /// Name of the directory of the pages' assets, below `server.auth_prefix`.
    pub const ASSETS: &str = "assets";

    /// Loads templates, texts and assets, and renders each page once.
    ///
    /// # Errors
    ///
    /// [`PagesError`] for the first file that cannot be used.
    pub fn new(settings: &PagesSettings, site: Site<'_>) -> Result<Self, PagesError> {
        let files = OperatorFiles(settings.templates.as_deref());
        let languages = settings.languages.iter().map(|tag| Language::load(tag, files));
        let assets = assets(settings, files)?;
        let pages = Self(Arc::new(Inner {
            templates: Templates::load(files)?,
            languages: languages.collect::<Result<_, _>>()?,
            site: site_value(settings, site, &assets),
            paths: paths(settings, site),
            endings: Value::from(Serde(Ending::all())),
            assets,
        }));
        pages.check(files)?;
        Ok(pages)
    }

    /// Returns the language for a request with this `Accept-Language`.
    #[must_use]
    pub fn language(&self, accept_language: Option<&HeaderValue>) -> Language {
        choose(&self.0.languages, accept_language).clone()
    }

    /// Returns the asset with this name.
    #[must_use]
    pub fn asset(&self, name: &str) -> Option<&Asset> {
        self.0.assets.iter().find(|(asset, _)| asset == name).map(|(_, asset)| asset)
    }

    /// Renders a page in `language`, with all headers that a page needs.
    ///
    /// It has the id of the request if it is called within a [`RequestContext`].
    #[must_use]
    pub fn render<B: From<String>>(&self, page: &Page, language: &Language) -> Response<B> {
        let html = self.0.templates.render(page.template(), self.context(page, language));
        let mut response = Response::new(B::from(html));
        *response.status_mut() = page.status();
        let headers = response.headers_mut();
        set_page_headers(headers, language);
        match page.status() {
            // RFC 9110 section 15.5.2 requires a challenge in a 401 response.
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }

    /// Returns the variables of a template.
    fn context(&self, page: &Page, language: &Language) -> Value {
        let request_id = RequestContext::with_current(RequestContext::id);
        context! {
            lang => language.tag(),
            t => language.text_function(),
            date => language.date_function(),
            site => self.0.site.clone(),
            paths => self.0.paths.clone(),
            endings => self.0.endings.clone(),
            request_id => request_id.as_ref().map(RequestId::as_str),
            ..Value::from(Serde(page)),
        }
    }

    /// Renders examples of all pages, so that an error in a template is found before a request needs it.
    fn check(&self, files: OperatorFiles<'_>) -> Result<(), PagesError> {
        for language in &self.0.languages {
            for page in Page::examples() {
                let rendered = self.0.templates.try_render(page.template(), self.context(&page, language));
                rendered.map_err(|error| template_error(files, &error))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

/// Returns the assets by name: ours, and the logo, stylesheet and colour of the operator.
fn assets(settings: &PagesSettings, files: OperatorFiles<'_>) -> Result<Vec<(String, Asset)>, PagesError> {
    let mut assets = Vec::new();
    for (name, embedded) in ASSETS {
        let content = files.find(name)?.map_or_else(|| embedded.to_owned(), |file| file.text);
        assets.push((name.to_owned(), Asset::new(name, content)));
    }
    if let Some(accent) = settings.accent {
        assets.push((ACCENT.to_owned(), Asset::new(ACCENT, accent.stylesheet())));
    }
    if let Some(path) = &settings.stylesheet {
        assets.push((STYLESHEET.to_owned(), Asset::new(STYLESHEET, read("pages.stylesheet", path)?)));
    }
    if let Some(path) = &settings.logo {
        let name = logo_name(path).ok_or_else(|| PagesError::NotAnImage(path.clone()))?;
        let asset = Asset::new(&name, read("pages.logo", path)?);
        assets.push((name, asset));
    }
    Ok(assets)
}

/// Returns the name of the logo among the assets, with the extension of its file.
fn logo_name(path: &Path) -> Option<String> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    image_type(&extension).map(|_| format!("{LOGO}.{extension}"))
}

fn site_value(settings: &PagesSettings, site: Site<'_>, assets: &[(String, Asset)]) -> Value {
    let url = |name: &str| format!("{}/{}/{name}", site.auth_prefix, Pages::ASSETS);
    let has = |name: &str| site.serves_pages && assets.iter().any(|(asset, _)| asset == name);
    let logo = assets.iter().map(|(name, _)| name).find(|name| name.starts_with(LOGO));
    let stylesheets = ["pages.css", ACCENT, STYLESHEET].into_iter().filter(|name| has(name));
    context! {
        title => settings.title.as_deref().unwrap_or(site.host),
        logo => logo.filter(|_| site.serves_pages).map(|name| url(name)),
        stylesheets => stylesheets.map(url).collect::<Vec<_>>(),
        assets => site.serves_pages.then(|| url("")),
    }
}

fn paths(settings: &PagesSettings, site: Site<'_>) -> Value {
    let path = |name: &str| format!("{}/{name}", site.auth_prefix);
    let page = |name: &str| site.serves_pages.then(|| path(name));
    let sign_in = match &settings.sign_in {
        SignIn::Builtin => page("sign-in"),
        SignIn::Off => None,
        SignIn::Url(url) => Some(url.clone()),
    };
    context! {
        home => "/",
        sign_in,
        sign_out => page("sign-out"),
        account => page("account"),
        session => path("session"),
    }
}

const ACCENT: &str = "accent.css";
const STYLESHEET: &str = "custom.css";
const LOGO: &str = "logo";

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(serves_pages: bool) -> Pages {
        let site = Site { host: "app.example.com", auth_prefix: "/auth", serves_pages };
        Pages::new(&PagesSettings::default(), site).unwrap()
    }

    #[test]
    fn every_page_is_rendered_in_every_language() {
        let pages = pages(true);
        for language in &pages.0.languages {
            for page in Page::examples() {
                let response = pages.render::<String>(&page, language);
                let html = response.body();
                assert!(html.starts_with("<!doctype html>\n<html lang=\""), "{html}");
                assert!(html.ends_with("</html>\n") || html.ends_with("</html>"), "{html}");
                assert!(
                    !html.contains("style=") && !html.contains("<style") && !html.contains("<script>"),
                    "{html}"
                );
                // A template is no part of the page until a script shows it.
                let shown = html.split("<template").next().unwrap();
                assert_eq!(shown.matches("<h1").count(), 1, "{html}");
                assert_eq!(html.matches("<main").count(), 1, "{html}");
                assert_eq!(response.headers()["content-language"], language.tag());
                assert_eq!(response.headers()["cache-control"], "private, no-store");
            }
        }
    }

    #[test]
    fn page_without_served_files_links_to_none() {
        let pages = pages(false);
        for page in Page::examples().into_iter().filter(|page| matches!(page, Page::Error(_))) {
            let html = pages.render::<String>(&page, &pages.language(None)).into_body();
            assert!(!html.contains("/auth/"), "{html}");
        }
    }
}
