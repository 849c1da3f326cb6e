//! Bodies and parameters of the movie routes.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::models::movie::{Movie, MovieDetails, MovieId};

/// Movie to create, or to replace another with.
///
/// Text is stored exactly as sent.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MovieRequest {
    /// Title, 1 to 200 characters.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
        example = "Seven Samurai"
    )]
    pub title: String,
    /// Release year.
    #[serde(deserialize_with = "whole_number")]
    #[schema(minimum = 1870, maximum = 2200, example = 1954)]
    pub year: i32,
    /// Director, 1 to 200 characters.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
        example = "Akira Kurosawa"
    )]
    pub director: String,
    /// Running time in minutes.
    #[serde(default, deserialize_with = "optional_whole_number")]
    #[schema(minimum = 1, maximum = 10_000, example = 207)]
    pub runtime_minutes: Option<i32>,
    /// Rating from 0 to 10.
    #[schema(minimum = 0, maximum = 10)]
    pub rating: Option<f64>,
}

impl MovieRequest {
    /// Validates every field.
    ///
    /// # Errors
    ///
    /// Returns the first invalid field and the rule that it violates.
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

/// Movie.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MovieResponse {
    /// Id of the movie.
    #[schema(example = 7)]
    pub id: i64,
    /// Title.
    #[schema(example = "Seven Samurai")]
    pub title: String,
    /// Release year.
    #[schema(example = 1954)]
    pub year: i32,
    /// Director.
    #[schema(example = "Akira Kurosawa")]
    pub director: String,
    /// Running time in minutes, if known.
    #[schema(example = 207)]
    pub runtime_minutes: Option<i32>,
    /// Rating from 0 to 10, if there is one.
    pub rating: Option<f64>,
}

impl From<Movie> for MovieResponse {
    fn from(Movie { id: MovieId(id), details }: Movie) -> Self {
        let MovieDetails { title, year, director, runtime_minutes, rating } = details;
        Self { id, title, year, director, runtime_minutes, rating }
    }
}

/// One page of a list of movies.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MoviePage {
    /// Movies on this page.
    pub items: Vec<MovieResponse>,
    /// Number of matching movies on all pages.
    pub total: u64,
    /// Maximum number of movies on a page.
    pub limit: u32,
    /// Number of movies before this page.
    pub offset: u32,
}

/// Filter, order and page of a list of movies.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MovieListParams {
    /// Maximum number of movies to return.
    #[serde(default = "MovieListParams::default_limit")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    pub limit: u32,
    /// Number of movies to skip.
    #[serde(default)]
    #[param(minimum = 0, maximum = 4_294_967_295_u32, default = 0)]
    pub offset: u32,
    /// Field to sort by: `id`, `title`, `year`, `director`, `runtime_minutes` or `rating`. A leading `-`
    /// sorts in descending order.
    #[serde(default = "MovieListParams::default_sort")]
    #[param(
        pattern = r"^-?(id|title|year|director|runtime_minutes|rating)$",
        default = "id",
        example = "-year"
    )]
    pub sort: String,
    /// Part of the title, compared without regard to case.
    #[param(
        max_length = 200,
        pattern = r"^([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*)?$"
    )]
    pub title: Option<String>,
    /// Part of the director's name, compared without regard to case.
    #[param(
        max_length = 200,
        pattern = r"^([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*)?$"
    )]
    pub director: Option<String>,
    /// Release year.
    #[param(minimum = -2_147_483_648, maximum = 2_147_483_647)]
    pub year: Option<i32>,
}

impl MovieListParams {
    /// Validates the parameters. An empty `title` or `director` counts as absent, because HTML forms send
    /// empty fields.
    ///
    /// # Errors
    ///
    /// Returns the first invalid parameter and the rule that it violates.
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

/// Path of a movie.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MoviePath {
    /// Id of the movie.
    #[param(example = 7)]
    pub id: i64,
}

/// Invalid field or parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` must be {rule}")]
pub struct InvalidField {
    /// Name of the field.
    pub field: &'static str,
    /// Rule that the value violates.
    pub rule: String,
}

/// A whole number, also in the form `1954.0`, which JSON Schema counts as an integer.
struct WholeNumber(i32);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_i32(WholeNumberVisitor).map(Self)
    }
}

struct WholeNumberVisitor;

impl Visitor<'_> for WholeNumberVisitor {
    type Value = i32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("i32")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<i32, E> {
        i32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<i32, E> {
        i32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<i32, E> {
        // Without a fraction, it is formatted as its digits.
        number.to_string().parse().map_err(|_| E::invalid_value(Unexpected::Float(number), &self))
    }
}

fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    WholeNumber::deserialize(deserializer).map(|WholeNumber(number)| number)
}

fn optional_whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    let number = Option::<WholeNumber>::deserialize(deserializer)?;
    Ok(number.map(|WholeNumber(number)| number))
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

/// Control characters are rejected: PostgreSQL cannot store NUL, and none of the others belongs in a name.
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

    fn movie_with(change: impl FnOnce(&mut MovieRequest)) -> MovieRequest {
        let mut movie = MovieRequest {
            title: "Ran".to_owned(),
            year: 1985,
            director: "Akira Kurosawa".to_owned(),
            runtime_minutes: Some(162),
            rating: Some(8.5),
        };
        change(&mut movie);
        movie
    }

    fn invalid_field(movie: MovieRequest) -> &'static str {
        movie.check().expect_err("must be rejected").field
    }

    #[test]
    fn text_is_stored_unchanged() {
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
    fn error_names_field() {
        for text in ["", "  ", "a\0b", "a\nb", &"x".repeat(201)] {
            assert_eq!(invalid_field(movie_with(|movie| movie.title = text.to_owned())), "title");
            assert_eq!(invalid_field(movie_with(|movie| movie.director = text.to_owned())), "director");
        }
        for year in [i32::MIN, 1869, 2201] {
            assert_eq!(invalid_field(movie_with(|movie| movie.year = year)), "year");
        }
        for minutes in [-1, 0, 10_001] {
            let movie = movie_with(|movie| movie.runtime_minutes = Some(minutes));
            assert_eq!(invalid_field(movie), "runtime_minutes");
        }
        for rating in [-0.1, 10.1, f64::NAN, f64::INFINITY] {
            assert_eq!(invalid_field(movie_with(|movie| movie.rating = Some(rating))), "rating");
        }
    }

    /// D18: JSON Schema counts `1954.0` as an integer.
    #[test]
    fn whole_numbers_may_have_a_fraction_of_zero() {
        let parse = |year: &str, minutes: &str| {
            let text = format!(r#"{{"title":"a","director":"b","year":{year},"runtime_minutes":{minutes}}}"#);
            serde_json::from_str::<MovieRequest>(&text).ok().map(|movie| (movie.year, movie.runtime_minutes))
        };
        assert_eq!(parse("1954.0", "2.07e2"), Some((1954, Some(207))));
        assert_eq!(parse("1954", "null"), Some((1954, None)));
        for (year, minutes) in
            [("1954.5", "1"), ("1e300", "1"), ("4294967296", "1"), ("\"1954\"", "1"), ("1954", "1.5")]
        {
            assert_eq!(parse(year, minutes), None, "{year} {minutes}");
        }
        let without = serde_json::from_str::<MovieRequest>(r#"{"title":"a","director":"b","year":1954}"#);
        assert!(without.is_ok_and(|movie| movie.runtime_minutes.is_none()));
    }

    #[test]
    fn error_names_rule() {
        let error = movie_with(|movie| movie.rating = Some(11.0)).check().expect_err("too high");
        assert_eq!(error.to_string(), "`rating` must be from 0 to 10");
    }
}
