//! Movies in PostgreSQL.

use async_trait::async_trait;
use sqlx::{Postgres, QueryBuilder};

use super::database::is_valid_text;
use super::pool::Transaction;
use super::{PostgresStore, with_write_timeout};
use crate::backend::sql::movies::{MovieRow, movie_columns, movie_order, push_movie_filter};
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::services::store::{MovieQuery, MovieStore, StoreError};

#[async_trait]
impl MovieStore for PostgresStore {
    async fn list_movies(&self, query: &MovieQuery) -> Result<(Vec<Movie>, u64), StoreError> {
        if !query.title.iter().chain(&query.director).all(|part| is_valid_text(part)) {
            return Ok((Vec::new(), 0));
        }
        let mut count = QueryBuilder::<Postgres>::new(COUNT);
        push_movie_filter(&mut count, query, "strpos");
        let total = count.build_query_scalar::<i64>().fetch_one(&self.pool).await?;

        let mut page = QueryBuilder::<Postgres>::new(LIST);
        push_movie_filter(&mut page, query, "strpos");
        page.push(movie_order(query.sort, query.descending));
        page.push(" LIMIT ").push_bind(i64::from(query.limit));
        page.push(" OFFSET ").push_bind(i64::from(query.offset));
        let rows = page.build_query_as::<Row>().fetch_all(&self.pool).await?;
        let movies: Result<_, _> = rows.into_iter().map(Movie::try_from).collect();
        Ok((movies?, total.unsigned_abs()))
    }

    async fn find_movie(&self, id: MovieId) -> Result<Option<Movie>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FIND).bind(id.0).fetch_optional(&self.pool).await?;
        row.map(Movie::try_from).transpose()
    }

    async fn insert_movies(&self, movies: &[MovieDetails]) -> Result<Vec<Movie>, StoreError> {
        with_write_timeout(async {
            let mut tx = self.pool.begin().await?;
            let mut inserted = Vec::with_capacity(movies.len());
            for details in movies {
                let id = insert(&mut tx, details).await?;
                inserted.push(Movie { id, details: details.clone() });
            }
            tx.commit().await?;
            Ok(inserted)
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
        Ok(self.execute(query).await? == 1)
    }

    async fn delete_movie(&self, id: MovieId) -> Result<bool, StoreError> {
        Ok(self.execute(sqlx::query(DELETE).bind(id.0)).await? == 1)
    }
}

async fn insert(tx: &mut Transaction, details: &MovieDetails) -> Result<MovieId, StoreError> {
    let query = sqlx::query_scalar::<_, i64>(INSERT)
        .bind(&details.title)
        .bind(details.title.to_lowercase())
        .bind(details.year)
        .bind(&details.director)
        .bind(details.director.to_lowercase())
        .bind(details.runtime_minutes)
        .bind(details.rating);
    Ok(MovieId(query.fetch_one(tx).await?))
}

type Row = MovieRow<i32>;

const COUNT: &str = "SELECT count(*) FROM myapi.movies WHERE TRUE";

const LIST: &str = concat!("SELECT ", movie_columns!(), " FROM myapi.movies WHERE TRUE");

const FIND: &str = concat!("SELECT ", movie_columns!(), " FROM myapi.movies WHERE id = $1");

const INSERT: &str = "INSERT INTO myapi.movies \
    (title, title_key, year, director, director_key, runtime_minutes, rating) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id";

const UPDATE: &str = "UPDATE myapi.movies SET title = $1, title_key = $2, year = $3, director = $4, \
    director_key = $5, runtime_minutes = $6, rating = $7 WHERE id = $8";

const DELETE: &str = "DELETE FROM myapi.movies WHERE id = $1";
