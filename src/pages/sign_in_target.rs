//! The address of the sign-in page, with the way back.

use url::form_urlencoded::byte_serialize;

use super::settings::SignIn;
use crate::next::Next;

/// Address of the sign-in page, to which navigations without a session are redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInTarget {
    public_origin: String,
    auth_prefix: String,
    /// The page's path on the public origin, or its URL on another origin, with its own query.
    page: String,
}

impl SignInTarget {
    /// Returns `None` if there is no sign-in page.
    #[must_use]
    pub fn new(sign_in: &SignIn, public_origin: &str, auth_prefix: &str) -> Option<Self> {
        let page = match sign_in {
            SignIn::Builtin => format!("{}/sign-in", auth_prefix.trim_end_matches('/')),
            SignIn::Off => return None,
            SignIn::Url(url) => match url.strip_prefix(public_origin) {
                Some(path) if path.starts_with('/') => path.to_owned(),
                Some("") => "/".to_owned(),
                _ => url.clone(),
            },
        };
        Some(Self { public_origin: public_origin.to_owned(), auth_prefix: auth_prefix.to_owned(), page })
    }

    /// Returns the absolute URL of the page.
    #[must_use]
    pub fn url(&self) -> String {
        if self.is_same_origin() { self.absolute(&self.page) } else { self.page.clone() }
    }

    /// Returns the way back to a request with this path and query.
    #[must_use]
    pub fn next_for(&self, target: &str) -> Next {
        Next::parse_outside(target, &self.auth_prefix).unwrap_or(Next::ROOT)
    }

    /// Returns `true` for the path of the page, which must not be redirected to itself.
    #[must_use]
    pub fn is_at(&self, path: &str) -> bool {
        self.page.split('?').next() == Some(path)
    }

    /// Returns the address of the page with `next`, for a redirect on the public origin.
    ///
    /// A page of another origin gets an absolute `next`.
    #[must_use]
    pub fn location(&self, next: &Next) -> String {
        let next =
            if self.is_same_origin() { next.as_str().to_owned() } else { self.absolute(next.as_str()) };
        let separator = if self.page.contains('?') { '&' } else { '?' };
        let value: String = byte_serialize(next.as_bytes()).collect();
        format!("{}{separator}next={value}", self.page)
    }

    /// Returns the address of the page with `next` as an absolute URL, for a redirect on any origin.
    #[must_use]
    pub fn absolute_location(&self, next: &Next) -> String {
        let location = self.location(next);
        if self.is_same_origin() { self.absolute(&location) } else { location }
    }

    fn is_same_origin(&self) -> bool {
        self.page.starts_with('/')
    }

    fn absolute(&self, path: &str) -> String {
        format!("{}{path}", self.public_origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "https://app.example";

    fn target(sign_in: SignIn) -> SignInTarget {
        SignInTarget::new(&sign_in, ORIGIN, "/auth").unwrap()
    }

    fn page(url: &str) -> SignInTarget {
        target(SignIn::Url(url.to_owned()))
    }

    #[test]
    fn builtin_page_gets_the_path_and_query() {
        let next = Next::parse("/movies?page=2&title=%E9%96%A2").unwrap();
        let target = target(SignIn::Builtin);
        assert_eq!(target.url(), "https://app.example/auth/sign-in");
        let location = "/auth/sign-in?next=%2Fmovies%3Fpage%3D2%26title%3D%25E9%2596%25A2";
        assert_eq!(target.location(&next), location);
        assert_eq!(target.absolute_location(&next), format!("{ORIGIN}{location}"));
        assert!(target.is_at("/auth/sign-in") && !target.is_at("/auth"));
    }

    #[test]
    fn own_page_of_the_same_origin_gets_a_path() {
        for url in ["/login?theme=dark", "https://app.example/login?theme=dark"] {
            let target = page(url);
            assert_eq!(target.url(), "https://app.example/login?theme=dark");
            assert_eq!(target.location(&Next::ROOT), "/login?theme=dark&next=%2F");
            assert_eq!(
                target.absolute_location(&Next::ROOT),
                "https://app.example/login?theme=dark&next=%2F"
            );
            assert!(target.is_at("/login") && !target.is_at("/"));
        }
        assert_eq!(page(ORIGIN).location(&Next::ROOT), "/?next=%2F");
    }

    #[test]
    fn page_of_another_origin_gets_an_absolute_next() {
        for url in ["https://login.example/", "https://app.example.org/", "https://app.example:8443/"] {
            let target = page(url);
            assert_eq!(target.url(), url);
            let location = format!("{url}?next=https%3A%2F%2Fapp.example%2Fa%3Fb");
            assert_eq!(target.location(&Next::parse("/a?b").unwrap()), location);
            assert_eq!(target.absolute_location(&Next::parse("/a?b").unwrap()), location);
        }
    }

    #[test]
    fn there_may_be_no_page() {
        assert_eq!(SignInTarget::new(&SignIn::Off, ORIGIN, "/auth"), None);
    }
}
