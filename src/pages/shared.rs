//! The pages in force.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::render::Pages;

/// The [`Pages`] in force, which a reload replaces. Clones share them.
#[derive(Clone, Debug)]
pub struct SharedPages(Arc<ArcSwap<Pages>>);

impl SharedPages {
    /// Shares `pages`.
    #[must_use]
    pub fn new(pages: Pages) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(pages)))
    }

    /// Returns the pages in force.
    #[must_use]
    pub fn load(&self) -> Pages {
        Pages::clone(&self.0.load())
    }

    /// Puts other pages into force.
    pub fn replace(&self, pages: Pages) {
        self.0.store(Arc::new(pages));
    }
}
