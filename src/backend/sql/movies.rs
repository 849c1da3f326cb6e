//! Movies: their columns, rows and queries.

use sqlx::{Database, Encode, FromRow, QueryBuilder, Type};

use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::services::store::{MovieQuery, MovieSort, StoreError};

macro_rules! movie_columns {
    () => {
        "id, title, year, director, runtime_minutes, rating"
    };
}

pub(in crate::backend) use movie_columns;

/// Returns the `ORDER BY` clause of a movie list. The id makes the order total.
pub(in crate::backend) const fn movie_order(sort: MovieSort, descending: bool) -> &'static str {
    match (sort, descending) {
        (MovieSort::Director, false) => " ORDER BY director_key, id",
        (MovieSort::Director, true) => " ORDER BY director_key DESC, id DESC",
        (MovieSort::Id, false) => " ORDER BY id",
        (MovieSort::Id, true) => " ORDER BY id DESC",
        (MovieSort::Rating, false) => " ORDER BY rating NULLS FIRST, id",
        (MovieSort::Rating, true) => " ORDER BY rating DESC NULLS LAST, id DESC",
        (MovieSort::Runtime, false) => " ORDER BY runtime_minutes NULLS FIRST, id",
        (MovieSort::Runtime, true) => " ORDER BY runtime_minutes DESC NULLS LAST, id DESC",
        (MovieSort::Title, false) => " ORDER BY title_key, id",
        (MovieSort::Title, true) => " ORDER BY title_key DESC, id DESC",
        (MovieSort::Year, false) => " ORDER BY year, id",
        (MovieSort::Year, true) => " ORDER BY year DESC, id DESC",
    }
}

/// Adds the conditions of a filter to a query of movies.
///
/// `position` is the function that returns the position of a substring. LIKE would treat `%` and `_` as
/// wildcards.
pub(in crate::backend) fn push_movie_filter<DB: Database>(
    sql: &mut QueryBuilder<DB>,
    query: &MovieQuery,
    position: &'static str,
) where
    for<'q> String: Encode<'q, DB> + Type<DB>,
    for<'q> i32: Encode<'q, DB> + Type<DB>,
{
    for (column, part) in [("title_key", &query.title), ("director_key", &query.director)] {
        if let Some(part) = part {
            sql.push(format_args!(" AND {position}({column}, ")).push_bind(part.to_lowercase()).push(") > 0");
        }
    }
    if let Some(year) = query.year {
        sql.push(" AND year = ").push_bind(year);
    }
}

/// A row of `movies`, with the year and running time of the type `I`.
#[derive(FromRow)]
pub(in crate::backend) struct MovieRow<I> {
    id: i64,
    title: String,
    year: I,
    director: String,
    runtime_minutes: Option<I>,
    rating: Option<f64>,
}

impl<I: TryInto<i32>> TryFrom<MovieRow<I>> for Movie {
    type Error = StoreError;

    fn try_from(row: MovieRow<I>) -> Result<Self, StoreError> {
        let corrupt = |column| StoreError::Corrupt { table: "movies", column };
        let runtime_minutes = row.runtime_minutes.map(I::try_into).transpose();
        let details = MovieDetails {
            title: row.title,
            year: row.year.try_into().map_err(|_| corrupt("year"))?,
            director: row.director,
            runtime_minutes: runtime_minutes.map_err(|_| corrupt("runtime_minutes"))?,
            rating: row.rating,
        };
        Ok(Self { id: MovieId(row.id), details })
    }
}
