//! What can be done with movies.

use std::str::FromStr;
use std::sync::Arc;

use super::store::{MovieQuery, MovieSort, MovieStore, StoreError};
use crate::models::movie::{Movie, MovieDetails, MovieId};

/// The movies, over a store. Clones share it.
#[derive(Clone)]
pub struct Movies {
    store: Arc<dyn MovieStore>,
}

impl Movies {
    /// The movies in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn MovieStore>) -> Self {
        Self { store }
    }

    /// One page of the movies that match, and how many match in all.
    ///
    /// # Errors
    ///
    /// [`MovieError::Store`] if the store fails.
    pub async fn list(&self, query: &MovieQuery) -> Result<(Vec<Movie>, u64), MovieError> {
        Ok(self.store.list_movies(query).await?)
    }

    /// The movie of this id.
    ///
    /// # Errors
    ///
    /// [`MovieError::NotFound`] if there is none.
    pub async fn find(&self, id: MovieId) -> Result<Movie, MovieError> {
        self.store.find_movie(id).await?.ok_or(MovieError::NotFound(id))
    }

    /// Adds a movie and returns it with its id.
    ///
    /// # Errors
    ///
    /// [`MovieError::Store`] if the store fails.
    pub async fn create(&self, details: MovieDetails) -> Result<Movie, MovieError> {
        let mut inserted = self.store.insert_movies(std::slice::from_ref(&details)).await?;
        let lost = StoreError::Corrupt { table: "movies", column: "id" };
        inserted.pop().ok_or(MovieError::Store(lost))
    }

    /// Replaces all that is known of a movie.
    ///
    /// # Errors
    ///
    /// [`MovieError::NotFound`] if there is none of this id.
    pub async fn replace(&self, id: MovieId, details: MovieDetails) -> Result<Movie, MovieError> {
        let movie = Movie { id, details };
        let found = self.store.update_movie(&movie).await?;
        found.then_some(movie).ok_or(MovieError::NotFound(id))
    }

    /// Deletes a movie.
    ///
    /// # Errors
    ///
    /// [`MovieError::NotFound`] if there is none of this id.
    pub async fn delete(&self, id: MovieId) -> Result<(), MovieError> {
        let found = self.store.delete_movie(id).await?;
        found.then_some(()).ok_or(MovieError::NotFound(id))
    }
}

/// An order of movies, as in `sort=-year`: a field's name, with `-` in front for the other way
/// round.
///
/// ```
/// use sekisho::services::movies::MovieOrder;
/// use sekisho::services::store::MovieSort;
///
/// let order: MovieOrder = "-year".parse()?;
/// assert_eq!(order, MovieOrder { sort: MovieSort::Year, descending: true });
/// # Ok::<(), sekisho::services::movies::UnknownOrder>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MovieOrder {
    /// What the movies are ordered by.
    pub sort: MovieSort,
    /// Whether the order is reversed.
    pub descending: bool,
}

impl FromStr for MovieOrder {
    type Err = UnknownOrder;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
        let sort = match name {
            "director" => MovieSort::Director,
            "id" => MovieSort::Id,
            "rating" => MovieSort::Rating,
            "runtime_minutes" => MovieSort::Runtime,
            "title" => MovieSort::Title,
            "year" => MovieSort::Year,
            _ => return Err(UnknownOrder),
        };
        Ok(Self { sort, descending })
    }
}

/// Not an order of movies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`sort` must be one of id, title, year, director, runtime_minutes and rating, with `-` in front to reverse it"
)]
pub struct UnknownOrder;

/// Why a movie could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MovieError {
    /// There is no movie of this id.
    #[error("there is no movie {}", .0.0)]
    NotFound(MovieId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_orders_both_ways() {
        for (name, sort) in [
            ("director", MovieSort::Director),
            ("id", MovieSort::Id),
            ("rating", MovieSort::Rating),
            ("runtime_minutes", MovieSort::Runtime),
            ("title", MovieSort::Title),
            ("year", MovieSort::Year),
        ] {
            assert_eq!(name.parse(), Ok(MovieOrder { sort, descending: false }));
            assert_eq!(format!("-{name}").parse(), Ok(MovieOrder { sort, descending: true }));
        }
    }

    #[test]
    fn anything_else_is_no_order() {
        for text in ["", "-", "--year", "+year", "Year", "year ", "year,title", "runtime"] {
            assert_eq!(text.parse::<MovieOrder>(), Err(UnknownOrder), "{text:?}");
        }
    }
}
