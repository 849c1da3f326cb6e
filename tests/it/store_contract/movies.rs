//! `MovieStore` and `SettingStore`.

use sekisho::models::movie::{Movie, MovieDetails, MovieId};
use sekisho::services::store::{MovieQuery, MovieSort};

use super::*;

fn details(title: &str, year: i32, director: &str) -> MovieDetails {
    MovieDetails {
        title: title.to_owned(),
        year,
        director: director.to_owned(),
        runtime_minutes: None,
        rating: None,
    }
}

fn every() -> MovieQuery {
    MovieQuery { limit: 100, ..MovieQuery::default() }
}

async fn titles(stores: &Stores, query: &MovieQuery) -> Vec<String> {
    let (movies, _) = stores.movies.list_movies(query).await.unwrap();
    movies.into_iter().map(|movie| movie.details.title).collect()
}

pub(super) async fn movie_round_trips(stores: &Stores) {
    let plain = details("七人の侍", 1954, "黒澤 明");
    let full = MovieDetails { runtime_minutes: Some(207), rating: Some(8.6), ..plain.clone() };
    let inserted = stores.movies.insert_movies(&[plain.clone(), full.clone()]).await.unwrap();
    assert_eq!(inserted.iter().map(|movie| &movie.details).collect::<Vec<_>>(), [&plain, &full]);
    assert_ne!(inserted[0].id, inserted[1].id);
    for movie in inserted {
        assert_eq!(stores.movies.find_movie(movie.id).await.unwrap(), Some(movie));
    }
    assert_eq!(stores.movies.insert_movies(&[]).await.unwrap(), []);
}

pub(super) async fn movie_is_replaced_and_deleted(stores: &Stores) {
    let inserted =
        stores.movies.insert_movies(&[details("Old", 1, "x"), details("Other", 2, "y")]).await.unwrap();
    let [old, other] = inserted.try_into().expect("two");
    let new = MovieDetails { rating: Some(1.5), runtime_minutes: Some(9), ..details("New", 3, "z") };
    let new = Movie { id: old.id, details: new };
    assert!(stores.movies.update_movie(&new).await.unwrap());
    assert_eq!(stores.movies.find_movie(old.id).await.unwrap(), Some(new.clone()));
    let query = MovieQuery { title: Some("new".to_owned()), director: Some("Z".to_owned()), ..every() };
    assert_eq!(titles(stores, &query).await, ["New"], "found by the new title");

    assert!(stores.movies.delete_movie(old.id).await.unwrap());
    assert!(!stores.movies.delete_movie(old.id).await.unwrap());
    assert!(!stores.movies.update_movie(&new).await.unwrap());
    assert_eq!(stores.movies.find_movie(old.id).await.unwrap(), None);
    assert_eq!(stores.movies.find_movie(other.id).await.unwrap(), Some(other.clone()));
    assert_eq!(stores.movies.find_movie(MovieId(-1)).await.unwrap(), None);

    assert!(stores.movies.delete_movie(other.id).await.unwrap());
    let next = stores.movies.insert_movies(&[details("Next", 4, "w")]).await.unwrap();
    assert!(next[0].id > other.id, "ids are not reused");
}

pub(super) async fn movies_are_found_by_substring_ignoring_case(stores: &Stores) {
    let movies = [
        details("100% Wolf", 2020, "Alexs Stadermann"),
        details("Amélie", 2001, "Jean-Pierre Jeunet"),
        details("ÉTÉ_85", 2020, "François Ozon"),
        details("100 Wolves \\", 1999, "Director"),
    ];
    stores.movies.insert_movies(&movies).await.unwrap();
    let title = |part: &str| MovieQuery { title: Some(part.to_owned()), ..every() };
    for (part, expected) in [
        ("WOL", vec!["100% Wolf", "100 Wolves \\"]),
        ("0%", vec!["100% Wolf"]),
        ("%", vec!["100% Wolf"]),
        ("_", vec!["ÉTÉ_85"]),
        ("\\", vec!["100 Wolves \\"]),
        ("mÉl", vec!["Amélie"]),
        ("été", vec!["ÉTÉ_85"]),
        ("' OR 1=1 --", vec![]),
        ("\0", vec![]),
        ("", vec!["100% Wolf", "Amélie", "ÉTÉ_85", "100 Wolves \\"]),
    ] {
        assert_eq!(titles(stores, &title(part)).await, expected, "{part:?}");
    }
    let director = MovieQuery { director: Some("FRANÇOIS".to_owned()), ..every() };
    assert_eq!(titles(stores, &director).await, ["ÉTÉ_85"]);
    let year = MovieQuery { year: Some(2020), ..every() };
    assert_eq!(titles(stores, &year).await, ["100% Wolf", "ÉTÉ_85"]);
    let both = MovieQuery { year: Some(2020), ..title("wolf") };
    assert_eq!(titles(stores, &both).await, ["100% Wolf"]);
}

pub(super) async fn movies_are_sorted_by_a_column_then_id(stores: &Stores) {
    let rated = |title, year, director, runtime_minutes, rating| MovieDetails {
        runtime_minutes,
        rating,
        ..details(title, year, director)
    };
    let movies = [
        rated("b", 3, "X", Some(90), None),
        rated("A", 1, "y", None, Some(7.5)),
        rated("é", 2, "x", Some(100), Some(9.0)),
        rated("a-", 2, "Y", Some(90), None),
        rated("Z", 3, "w", None, Some(-1.0)),
    ];
    stores.movies.insert_movies(&movies).await.unwrap();
    for (sort, expected) in [
        (MovieSort::Id, ["b", "A", "é", "a-", "Z"]),
        (MovieSort::Title, ["A", "a-", "b", "Z", "é"]),
        (MovieSort::Year, ["A", "é", "a-", "b", "Z"]),
        (MovieSort::Director, ["Z", "b", "é", "A", "a-"]),
        (MovieSort::Runtime, ["A", "Z", "b", "a-", "é"]),
        (MovieSort::Rating, ["b", "a-", "Z", "A", "é"]),
    ] {
        let query = MovieQuery { sort, ..every() };
        assert_eq!(titles(stores, &query).await, expected, "{sort:?}");
        let mut reversed = expected;
        reversed.reverse();
        let query = MovieQuery { descending: true, ..query };
        assert_eq!(titles(stores, &query).await, reversed, "{sort:?}, reversed");
    }
}

pub(super) async fn pages_have_the_total(stores: &Stores) {
    let movies: Vec<MovieDetails> = (0..25).map(|n| details(&format!("{n:02}"), n % 2, "x")).collect();
    stores.movies.insert_movies(&movies).await.unwrap();
    let odd = MovieQuery { year: Some(1), limit: 5, ..MovieQuery::default() };
    for (offset, expected) in
        [(0, vec!["01", "03", "05", "07", "09"]), (10, vec!["21", "23"]), (12, vec![]), (u32::MAX, vec![])]
    {
        let (page, total) = stores.movies.list_movies(&MovieQuery { offset, ..odd.clone() }).await.unwrap();
        assert_eq!(page.into_iter().map(|movie| movie.details.title).collect::<Vec<_>>(), expected);
        assert_eq!(total, 12);
    }
    let (page, total) = stores.movies.list_movies(&MovieQuery { limit: 0, ..odd }).await.unwrap();
    assert_eq!((page.len(), total), (0, 12));
}

pub(super) async fn first_setting_is_kept(stores: &Stores) {
    let settle = async |name, value| stores.settings.get_or_insert_setting(name, value).await.unwrap();
    assert_eq!(settle("tokens.issuer", "first").await, "first");
    assert_eq!(settle("tokens.issuer", "second").await, "first");
    assert_eq!(settle("tokens.audience", "").await, "");
    assert_eq!(settle("tokens.audience", "second").await, "");
}

pub(super) async fn settings_can_be_replaced_and_deleted(stores: &Stores) {
    let settings = &stores.settings;
    for value in ["first", "second", ""] {
        settings.set_setting("x", value).await.unwrap();
        assert_eq!(settings.get_or_insert_setting("x", "third").await.unwrap(), value);
    }
    for (name, old, new, is_replaced) in [
        ("x", "first", "third", false),
        ("absent", "", "third", false),
        ("x", "", "third", true),
        ("x", "third", "", true),
    ] {
        assert_eq!(
            settings.replace_setting(name, old, new).await.unwrap(),
            is_replaced,
            "{name} {old} {new}"
        );
    }
    settings.set_setting("x.1", "%").await.unwrap();
    settings.set_setting("y.1", "").await.unwrap();
    let mut listed = settings.list_settings("x").await.unwrap();
    listed.sort();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(listed, [pair("x", ""), pair("x.1", "%")]);
    assert_eq!(settings.list_settings("%").await.unwrap(), []);
    assert!(settings.delete_setting("x").await.unwrap());
    assert!(!settings.delete_setting("x").await.unwrap());
    stores.check_write().await.unwrap();
    assert!(!settings.delete_setting("write_check").await.unwrap(), "no trace is left");
}
