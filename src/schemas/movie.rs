//! Movies on the wire.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::models::movie::{Movie, MovieDetails, MovieId};

/// A movie to create, or to put in another's place.
///
/// Text is kept exactly as sent.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MovieIn {
    /// The title: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, example = "Seven Samurai")]
    pub title: String,
    /// The year it came out.
    #[schema(minimum = 1870, maximum = 2200, example = 1954)]
    pub year: i32,
    /// Who directed it: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, example = "Akira Kurosawa")]
    pub director: String,
    /// How long it runs, in minutes.
    #[schema(minimum = 1, maximum = 10_000, example = 207)]
    pub runtime_minutes: Option<i32>,
    /// How it is rated, from 0 to 10.
    #[schema(minimum = 0, maximum = 10)]
    pub rating: Option<f64>,
}

impl MovieIn {
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// The first field that is not as it must be, with the rule it breaks.
    pub fn check(self) -> Result<MovieDetails, InvalidField> {
        check_text("title", &self.title)?;
        check_range("year", self.year, YEARS)?;
        check_text("director", &self.director)?;
        if let Some(minutes) = self.runtime_minutes {
            check_range("runtime_minutes", minutes, RUNTIMES)?;
        }
        if let Some(rating) = self.rating {
            check_range("rating", rating, RATINGS)?;
        }

        let Self { title, year, director, runtime_minutes, rating } = self;
        Ok(MovieDetails { title, year, director, runtime_minutes, rating })
    }
}

/// A movie.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MovieOut {
    /// Its id.
    #[schema(example = 7)]
    pub id: i64,
    /// The title.
    #[schema(example = "Seven Samurai")]
    pub title: String,
    /// The year it came out.
    #[schema(example = 1954)]
    pub year: i32,
    /// Who directed it.
    #[schema(example = "Akira Kurosawa")]
    pub director: String,
    /// How long it runs, in minutes, if known.
    #[schema(example = 207)]
    pub runtime_minutes: Option<i32>,
    /// How it is rated, from 0 to 10, if it is.
    pub rating: Option<f64>,
}

impl From<Movie> for MovieOut {
    fn from(Movie { id: MovieId(id), details }: Movie) -> Self {
        let MovieDetails { title, year, director, runtime_minutes, rating } = details;
        Self { id, title, year, director, runtime_minutes, rating }
    }
}

/// One page of a list of movies.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MoviePage {
    /// The movies on this page.
    pub items: Vec<MovieOut>,
    /// How many match on all pages.
    pub total: u64,
    /// How many a page holds at most.
    pub limit: u32,
    /// How many come before this page.
    pub offset: u32,
}

/// Which movies to list, and in which order.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MovieListParams {
    /// How many at most.
    #[serde(default = "MovieListParams::default_limit")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    pub limit: u32,
    /// How many to pass over.
    #[serde(default)]
    #[param(minimum = 0, default = 0)]
    pub offset: u32,
    /// `id`, `title`, `year`, `director`, `runtime_minutes` or `rating`; with `-` in front, the
    /// other way round.
    #[serde(default = "MovieListParams::default_sort")]
    #[param(default = "id", example = "-year")]
    pub sort: String,
    /// Part of the title, in any case.
    #[param(max_length = 200)]
    pub title: Option<String>,
    /// Part of the director's name, in any case.
    #[param(max_length = 200)]
    pub director: Option<String>,
    /// The year.
    pub year: Option<i32>,
}

impl MovieListParams {
    /// Checks what the types leave open. An empty `title` or `director` counts as absent, as an
    /// HTML form sends it.
    ///
    /// # Errors
    ///
    /// The first parameter that is not as it must be, with the rule it breaks.
    pub fn check(mut self) -> Result<Self, InvalidField> {
        check_range("limit", self.limit, LIMITS)?;
        self.title = self.title.filter(|part| !part.is_empty());
        self.director = self.director.filter(|part| !part.is_empty());
        for (name, part) in [("title", &self.title), ("director", &self.director)] {
            part.as_deref().map_or(Ok(()), |part| check_text(name, part))?;
        }
        Ok(self)
    }

    fn default_limit() -> u32 {
        20
    }

    fn default_sort() -> String {
        "id".to_owned()
    }
}

/// The movie that a path names.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MoviePath {
    /// The movie's id.
    #[param(example = 7)]
    pub id: i64,
}

impl From<MoviePath> for MovieId {
    fn from(path: MoviePath) -> Self {
        Self(path.id)
    }
}

/// A field that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` must be {rule}")]
pub struct InvalidField {
    /// Its name, as on the wire.
    pub field: &'static str,
    /// What it must be.
    pub rule: String,
}

fn check_range<T>(field: &'static str, value: T, range: RangeInclusive<T>) -> Result<(), InvalidField>
where
    T: PartialOrd + std::fmt::Display,
{
    if range.contains(&value) {
        return Ok(());
    }
    Err(InvalidField { field, rule: format!("from {} to {}", range.start(), range.end()) })
}

// Control characters are refused because PostgreSQL can't keep NUL, and none of them belongs in a
// name.
fn check_text(field: &'static str, text: &str) -> Result<(), InvalidField> {
    let rule = if !TEXT_LENGTHS.contains(&text.chars().count()) {
        format!("{} to {} characters long", TEXT_LENGTHS.start(), TEXT_LENGTHS.end())
    } else if text.chars().all(char::is_whitespace) {
        "more than white space".to_owned()
    } else if text.chars().any(char::is_control) {
        "free of control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(InvalidField { field, rule })
}

const TEXT_LENGTHS: RangeInclusive<usize> = 1..=200;
const YEARS: RangeInclusive<i32> = 1870..=2200;
const RUNTIMES: RangeInclusive<i32> = 1..=10_000;
const RATINGS: RangeInclusive<f64> = 0.0..=10.0;
const LIMITS: RangeInclusive<u32> = 1..=100;

#[cfg(test)]
mod tests {
    use super::*;

    fn movie() -> MovieIn {
        MovieIn {
            title: "Ran".to_owned(),
            year: 1985,
            director: "Akira Kurosawa".to_owned(),
            runtime_minutes: Some(162),
            rating: Some(8.5),
        }
    }

    fn refused(movie: MovieIn) -> &'static str {
        movie.check().expect_err("must be refused").field
    }

    #[test]
    fn keeps_text_exactly_as_sent() {
        let title = " 乱 ".to_owned();
        let details = movie_with(|movie| movie.title.clone_from(&title)).check().expect("legal");
        assert_eq!(details.title, title);
    }

    #[test]
    fn limits_are_inclusive() {
        for (year, minutes, rating) in [(1870, 1, 0.0), (2200, 10_000, 10.0)] {
            let movie = movie_with(|movie| {
                movie.title = "字".repeat(200);
                movie.year = year;
                movie.runtime_minutes = Some(minutes);
                movie.rating = Some(rating);
            });
            assert!(movie.check().is_ok());
        }
    }

    #[test]
    fn names_the_field_at_fault() {
        for text in ["", "  ", "a\0b", "a\nb", &"x".repeat(201)] {
            assert_eq!(refused(movie_with(|movie| movie.title = text.to_owned())), "title");
            assert_eq!(refused(movie_with(|movie| movie.director = text.to_owned())), "director");
        }
        for year in [i32::MIN, 1869, 2201] {
            assert_eq!(refused(movie_with(|movie| movie.year = year)), "year");
        }
        for minutes in [-1, 0, 10_001] {
            let movie = movie_with(|movie| movie.runtime_minutes = Some(minutes));
            assert_eq!(refused(movie), "runtime_minutes");
        }
        for rating in [-0.1, 10.1, f64::NAN, f64::INFINITY] {
            assert_eq!(refused(movie_with(|movie| movie.rating = Some(rating))), "rating");
        }
    }

    #[test]
    fn says_the_rule() {
        let error = movie_with(|movie| movie.rating = Some(11.0)).check().expect_err("too high");
        assert_eq!(error.to_string(), "`rating` must be from 0 to 10");
    }

    fn movie_with(change: impl FnOnce(&mut MovieIn)) -> MovieIn {
        let mut movie = movie();
        change(&mut movie);
        movie
    }
}
