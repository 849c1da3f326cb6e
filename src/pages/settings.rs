//! Settings of pages.

use std::path::PathBuf;

use super::accent::Accent;

/// Settings of pages: `[pages]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagesSettings {
    /// The sign-in page.
    pub sign_in: SignIn,
    /// The name of the service. By default the host of the public origin.
    pub title: Option<String>,
    /// An image file with the logo of the service.
    pub logo: Option<PathBuf>,
    /// The colour of buttons.
    pub accent: Option<Accent>,
    /// A stylesheet that browsers load after the built-in one.
    pub stylesheet: Option<PathBuf>,
    /// A directory whose files replace the built-in ones by name.
    pub templates: Option<PathBuf>,
    /// The languages of the pages. The first is the default.
    pub languages: Vec<String>,
}

/// The sign-in page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// The built-in page.
    Builtin,
    /// No page: requests without a session get 401.
    Off,
    /// A page of the operator, by path or absolute URL. It gets `?next=`.
    Url(String),
}

/// The service that the pages belong to.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The host of the public origin.
    pub host: &'a str,
    /// The path prefix of the pages.
    pub auth_prefix: &'a str,
    /// True if the pages and their assets are served, so that pages may link to them.
    pub serves_pages: bool,
}

impl Default for PagesSettings {
    fn default() -> Self {
        Self {
            sign_in: SignIn::Builtin,
            title: None,
            logo: None,
            accent: None,
            stylesheet: None,
            templates: None,
            languages: ["en", "ja"].map(str::to_owned).to_vec(),
        }
    }
}
