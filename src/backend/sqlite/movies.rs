//! Movies in SQLite.

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{FromRow, QueryBuilder, Sqlite};

use super::{Durability, SqliteStore};
use crate::backend::sql::{movie_columns, movie_order};
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::services::store::{MovieQuery, MovieStore, StoreError};

#[async_trait]
impl MovieStore for SqliteStore {
    async fn list_movies(&self, query: &MovieQuery) -> Result<(Vec<Movie>, u64), StoreError> {
        let mut count = QueryBuilder::<Sqlite>::new("SELECT count(*)");
        push_filter(&mut count, query);
        let total = count.build_query_scalar::<i64>().fetch_one(&self.readers).await;
        let total = total.map_err(StoreError::unavailable)?;

        let mut page = QueryBuilder::<Sqlite>::new(SELECT);
        push_filter(&mut page, query);
        page.push(movie_order(query.sort, query.descending));
        page.push(" LIMIT ").push_bind(i64::from(query.limit));
        page.push(" OFFSET ").push_bind(i64::from(query.offset));
        let rows = page.build_query_as::<Row>().fetch_all(&self.readers).await;
        let rows = rows.map_err(StoreError::unavailable)?;
        let movies: Result<_, _> = rows.into_iter().map(Movie::try_from).collect();
        Ok((movies?, total.unsigned_abs()))
    }

    async fn find_movie(&self, id: MovieId) -> Result<Option<Movie>, StoreError> {
        let query = sqlx::query_as::<_, Row>(FIND).bind(id.0);
        let row = query.fetch_optional(&self.readers).await.map_err(StoreError::unavailable)?;
        row.map(Movie::try_from).transpose()
    }

    async fn insert_movies(&self, movies: &[MovieDetails]) -> Result<Vec<Movie>, StoreError> {
        let movies = movies.to_vec();
        self.write(Durability::Flushed, |tx| {
            Box::pin(async move {
                let mut inserted = Vec::with_capacity(movies.len());
                for details in movies {
                    let id = insert(tx, &details).await?;
                    inserted.push(Movie { id, details });
                }
                Ok(inserted)
            })
        })
        .await
    }

    async fn update_movie(&self, movie: &Movie) -> Result<bool, StoreError> {
        let details = &movie.details;
        let query = sqlx::query(UPDATE)
            .bind(&details.title)
            .bind(details.title.to_lowercase())
            .bind(details.year)
            .bind(&details.director)
            .bind(details.director.to_lowercase())
            .bind(details.runtime_minutes)
            .bind(details.rating)
            .bind(movie.id.0);
        Ok(self.execute(Durability::Flushed, query).await? == 1)
    }

    async fn delete_movie(&self, id: MovieId) -> Result<bool, StoreError> {
        let query = sqlx::query(DELETE).bind(id.0);
        Ok(self.execute(Durability::Flushed, query).await? == 1)
    }
}

fn push_filter(sql: &mut QueryBuilder<Sqlite>, query: &MovieQuery) {
    sql.push(" FROM movies WHERE TRUE");
    // Not LIKE, in which `%` and `_` are wildcards.
    if let Some(title) = &query.title {
        sql.push(" AND instr(title_key, ").push_bind(title.to_lowercase()).push(") > 0");
    }
    if let Some(director) = &query.director {
        sql.push(" AND instr(director_key, ").push_bind(director.to_lowercase()).push(") > 0");
    }
    if let Some(year) = query.year {
        sql.push(" AND year = ").push_bind(year);
    }
}

async fn insert(tx: &mut SqliteConnection, details: &MovieDetails) -> Result<MovieId, StoreError> {
    let query = sqlx::query_scalar::<_, i64>(INSERT)
        .bind(&details.title)
        .bind(details.title.to_lowercase())
        .bind(details.year)
        .bind(&details.director)
        .bind(details.director.to_lowercase())
        .bind(details.runtime_minutes)
        .bind(details.rating);
    query.fetch_one(tx).await.map(MovieId).map_err(StoreError::unavailable)
}

/// A row of the table.
#[derive(FromRow)]
struct Row {
    id: i64,
    title: String,
    year: i64,
    director: String,
    runtime_minutes: Option<i64>,
    rating: Option<f64>,
}

impl TryFrom<Row> for Movie {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let runtime_minutes = row.runtime_minutes.map(i32::try_from).transpose();
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

fn corrupt(column: &'static str) -> StoreError {
    StoreError::Corrupt { table: "movies", column }
}

const SELECT: &str = concat!("SELECT ", movie_columns!());

const FIND: &str = concat!("SELECT ", movie_columns!(), " FROM movies WHERE id = $1");

const INSERT: &str = "INSERT INTO movies \
    (title, title_key, year, director, director_key, runtime_minutes, rating) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id";

const UPDATE: &str = "UPDATE movies SET title = $1, title_key = $2, year = $3, director = $4, \
    director_key = $5, runtime_minutes = $6, rating = $7 WHERE id = $8";

const DELETE: &str = "DELETE FROM movies WHERE id = $1";
