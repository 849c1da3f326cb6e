//! Queries and changes of movies.

use std::str::FromStr;
use std::sync::Arc;

use super::store::{MovieQuery, MovieSort, MovieStore, StoreError};
use crate::models::movie::{Movie, MovieDetails, MovieId};

/// The movies of a store. Clones share it.
#[derive(Clone)]
pub struct Movies {
    store: Arc<dyn MovieStore>,
}

impl Movies {
    /// Creates a service for the movies in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn MovieStore>) -> Self {
        Self { store }
    }

    /// Returns one page of the matching movies, and the total number of matches.
    ///
    /// # Errors
    ///
    /// [`MovieError::Store`] if the store fails.
    pub async fn list(&self, query: &MovieQuery) -> Result<(Vec<Movie>, u64), MovieError> {
        Ok(self.store.list_movies(query).await?)
    }

    /// Returns the movie with an id.
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
        let missing = StoreError::Corrupt { table: "movies", column: "id" };
        inserted.pop().ok_or(MovieError::Store(missing))
    }

    /// Replaces the details of a movie.
    ///
    /// # Errors
    ///
    /// [`MovieError::NotFound`] if there is no movie with this id.
    pub async fn replace(&self, id: MovieId, details: MovieDetails) -> Result<Movie, MovieError> {
        let movie = Movie { id, details };
        let found = self.store.update_movie(&movie).await?;
        found.then_some(movie).ok_or(MovieError::NotFound(id))
    }

    /// Deletes a movie.
    ///
    /// # Errors
    ///
    /// [`MovieError::NotFound`] if there is no movie with this id.
    pub async fn delete(&self, id: MovieId) -> Result<(), MovieError> {
        let found = self.store.delete_movie(id).await?;
        found.then_some(()).ok_or(MovieError::NotFound(id))
    }
}

/// Sort order of movies, as in `sort=-year`: a field name, with the prefix `-` for descending order.
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
    /// The field to sort by.
    pub sort: MovieSort,
    /// True for descending order.
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

/// Error of parsing a [`MovieOrder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`sort` must be one of id, title, year, director, runtime_minutes and rating, with `-` in front to reverse it"
)]
pub struct UnknownOrder;

/// Error of [`Movies`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MovieError {
    /// There is no movie with this id.
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
    fn every_field_sorts_in_both_directions() {
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
    fn other_orders_are_refused() {
        for text in ["", "-", "--year", "+year", "Year", "year ", "year,title", "runtime"] {
            assert_eq!(text.parse::<MovieOrder>(), Err(UnknownOrder), "{text:?}");
        }
    }
}
