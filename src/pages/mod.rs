//! The pages for people: sign-in, sign-out, the account, errors, and the demo.
//!
//! [`Pages`] renders a [`Page`] in the [`Language`] of a request. The templates (`web/pages/*.html`) and texts
//! (`web/pages/*.toml`) are embedded, and so are those of the demo (`web/demo/`). The files of `pages.templates` replace
//! them by name. [`crate::routers::pages`] serves the pages; this module knows neither routes nor sessions.

mod accent;
mod asset;
mod catalogue;
mod date;
mod demo_page;
mod error;
mod files;
mod headers;
mod language;
mod page;
mod render;
mod settings;
mod shared;
mod sign_in_target;
mod templates;

pub use self::accent::{Accent, NotAColor};
pub use self::asset::Asset;
pub use self::demo_page::{
    DemoCredentials, DemoPage, MovieColumn, MovieFilter, MovieForm, MovieList, MovieNotice, MovieProblem,
    MovieRow, MoviesSection,
};
pub use self::error::PagesError;
pub(crate) use self::headers::CONTENT_SECURITY_POLICY;
pub use self::language::Language;
pub use self::page::{
    AccountPage, CookieProblem, Device, ErrorPage, FormProblem, Notice, Page, RefreshPage, SignInPage,
    SignOutPage,
};
pub use self::render::Pages;
pub use self::settings::{PagesSettings, SignIn, Site};
pub use self::shared::SharedPages;
pub use self::sign_in_target::SignInTarget;
