//! The account: profile, devices, password.

use sekisho::models::user::Role;
use sekisho::services::users::NewUser;
use sekisho::session_event::SessionEvent;

use super::{ANN, BOB, get_in_japanese, location, page, signed_in, start, submit};
use crate::support::app::{PASSWORD, TestApp};
use crate::support::browser::Browser;
use crate::support::http::{TestResponse, form, get};

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0";
const NEW_PASSWORD: &str = "quiet lanterns climb the pass";

/// Signs an existing user in on another device.
async fn on_another_device(app: &TestApp, agent: &'static str) -> Browser {
    let mut browser = app.browser().with_client([198, 51, 100, 9], agent);
    location(&submit(&mut browser, "/auth/sign-in", ANN, PASSWORD).await);
    browser
}

async fn set_password(browser: &mut Browser, current: &str, new: &str, again: &str) -> TestResponse {
    let fields = [("current_password", current), ("new_password", new), ("new_password_again", again)];
    browser.send(form("/auth/account/password", &fields)).await
}

async fn session_id(browser: &mut Browser) -> String {
    browser.get("/auth/session").await.json()["session_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn page_shows_profile_and_devices() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    on_another_device(&app, FIREFOX).await;
    let html = page(&browser.get("/auth/account").await, 200);
    for part in [
        "<bdi>ann@example.com</bdi>",
        "<bdi>user</bdi>",
        "Firefox on Linux",
        "<bdi>198.51.100.9</bdi>",
        "<bdi>Browser/1.0</bdi>",
        "<p class=\"badge\">This device</p>",
        "action=\"/auth/account/devices/sign-out\"",
        "action=\"/auth/account/devices/sign-out-others\"",
        "at least 15 characters",
        "autocomplete=\"new-password\"",
    ] {
        assert!(html.contains(part), "{part}\n{html}");
    }
    // The present device comes first and has no button.
    assert!(html.find("This device") < html.find("Firefox on Linux"), "{html}");
    assert_eq!(html.matches("name=\"device\"").count(), 1);
    assert_eq!(html.matches("<time datetime=\"").count(), 4);
    let html = page(&get_in_japanese(&mut browser, "/auth/account").await, 200);
    for part in ["アカウント", "Firefox（Linux）", "この端末", "15文字以上", "（UTC）</time>"]
    {
        assert!(html.contains(part), "{part}\n{html}");
    }
}

#[tokio::test]
async fn page_needs_a_session_and_renews_it() {
    let app = start(&[]).await;
    app.send(get("/auth/account")).await.problem(401, "missing");
    for path in ["password", "devices/sign-out", "devices/sign-out-others"] {
        app.send(form(&format!("/auth/account/{path}"), &[])).await.problem(401, "missing");
    }
    let mut browser = signed_in(&app, ANN).await;
    app.expire();
    app.clock.advance(std::time::Duration::from_secs(120));
    let response = browser.get("/auth/account").await;
    page(&response, 200);
    assert_eq!((response.event(), response.set_cookies().len()), (Some("rotated"), 2));
}

#[tokio::test]
async fn password_manager_is_led_to_the_page() {
    let app = start(&[]).await;
    assert_eq!(location(&app.send(get("/.well-known/change-password")).await), "/auth/account");
    let app = start(&[("pages.sign_in", "off")]).await;
    app.send(get("/.well-known/change-password")).await.problem(404, "no_route");
}

#[tokio::test]
async fn new_password_ends_the_other_devices() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let mut other = on_another_device(&app, FIREFOX).await;
    let response = set_password(&mut browser, PASSWORD, NEW_PASSWORD, NEW_PASSWORD).await;
    assert_eq!(location(&response), "/auth/account?done=password");
    let html = page(&browser.get("/auth/account?done=password").await, 200);
    assert!(html.contains("role=\"status\">Your password was changed"), "{html}");
    other.get("/auth/account").await.problem(401, "password_changed");
    let html = page(&other.get("/auth/sign-in").await, 200);
    assert!(html.contains("Your password was changed on another device."), "{html}");
    page(&submit(&mut other, "/auth/sign-in", ANN, PASSWORD).await, 401);
    location(&submit(&mut other, "/auth/sign-in", ANN, NEW_PASSWORD).await);
}

/// A double click sends the form twice. The browser shows the second response only.
#[tokio::test]
async fn form_for_a_password_may_be_sent_twice() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    for _ in 0..2 {
        let response = set_password(&mut browser, PASSWORD, NEW_PASSWORD, NEW_PASSWORD).await;
        assert_eq!(location(&response), "/auth/account?done=password");
    }
    let response =
        set_password(&mut browser, PASSWORD, "another five quiet words", "another five quiet words").await;
    assert!(page(&response, 403).contains("The current password is wrong."));
}

/// In another tab, Bob has signed in since Ann's page was loaded.
#[tokio::test]
async fn page_of_another_user_changes_nothing() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let html = page(&browser.get("/auth/account").await, 200);
    let (_, rest) = html.split_once("name=\"user\" value=\"").unwrap();
    let ann = rest.split('"').next().unwrap().to_owned();
    app.user(BOB).await;
    location(&submit(&mut browser, "/auth/sign-in", BOB, PASSWORD).await);
    let mut phone = app.browser().with_client([198, 51, 100, 9], FIREFOX);
    location(&submit(&mut phone, "/auth/sign-in", BOB, PASSWORD).await);
    let device = session_id(&mut phone).await;
    let password = [("current_password", PASSWORD), ("new_password", NEW_PASSWORD)];
    for (path, fields) in [
        ("password", &password[..]),
        ("devices/sign-out", &[("device", &*device)]),
        ("devices/sign-out-others", &[]),
    ] {
        let fields = [&[("user", &*ann)], fields].concat();
        let response = browser.send(form(&format!("/auth/account/{path}"), &fields)).await;
        assert_eq!(location(&response), "/auth/account?done=other_user", "{path}");
    }
    page(&phone.get("/auth/account").await, 200);
    let html = page(&browser.get("/auth/account?done=other_user").await, 200);
    assert!(html.contains("You are signed in as another user now.") && html.contains(BOB), "{html}");
    let response = browser.send(form("/auth/account/devices/sign-out-others", &[])).await;
    assert_eq!(location(&response), "/auth/account?done=others");
}

#[tokio::test]
async fn page_has_the_text_for_each_end_of_its_session() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let html = page(&browser.get("/auth/account").await, 200);
    let (_, template) = html.split_once("<template id=\"ended\">").unwrap();
    let mut events = Vec::new();
    for part in template.split("data-events=\"").skip(1) {
        events.extend(part.split('"').next().unwrap().split(' '));
    }
    events.sort_unstable();
    let not_an_end = ["caught_up", "replayed", "rotated", "store_unavailable"];
    let words = SessionEvent::ALL.into_iter().map(SessionEvent::as_str);
    let ends: Vec<_> = words.filter(|word| !not_an_end.contains(word)).collect();
    assert_eq!(events, ends);
    assert!(!template.contains(ANN), "{template}");
}

#[tokio::test]
async fn refused_passwords_show_the_form_again() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let long = "x".repeat(1_025);
    for (current, new, again, status, text) in [
        ("wrong", NEW_PASSWORD, NEW_PASSWORD, 403, "The current password is wrong."),
        (PASSWORD, "short", "short", 422, "Use at least 15 characters"),
        (PASSWORD, "passwordpassword", "passwordpassword", 422, "easy to guess"),
        (PASSWORD, &long, &long, 422, "too long"),
        (PASSWORD, NEW_PASSWORD, "something else", 422, "differ"),
        (PASSWORD, "", "", 401, "Fill in all fields."),
    ] {
        let response = set_password(&mut browser, current, new, again).await;
        let html = page(&response, status);
        assert!(html.contains("role=\"alert\" id=\"error\"") && html.contains(text), "{text}\n{html}");
        assert!(!html.contains(NEW_PASSWORD) && !html.contains(PASSWORD), "{html}");
    }
    // A page of the operator may have one field for the new password.
    let fields = [("current_password", PASSWORD), ("new_password", NEW_PASSWORD)];
    let response = browser.send(form("/auth/account/password", &fields)).await;
    assert_eq!(location(&response), "/auth/account?done=password");
}

#[tokio::test]
async fn one_device_is_signed_out() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let mut other = on_another_device(&app, FIREFOX).await;
    let device = session_id(&mut other).await;
    // The form may be sent twice.
    for _ in 0..2 {
        let response = browser.send(form("/auth/account/devices/sign-out", &[("device", &device)])).await;
        assert_eq!(location(&response), "/auth/account?done=device");
    }
    other.get("/auth/account").await.problem(401, "logged_out");
    let html = page(&browser.get("/auth/account?done=device").await, 200);
    assert!(html.contains("The device was signed out.") && !html.contains("Firefox"), "{html}");
    for device in ["", "x", "00000000-0000-0000-0000"] {
        let response = browser.send(form("/auth/account/devices/sign-out", &[("device", device)])).await;
        page(&response, 400);
    }
}

#[tokio::test]
async fn devices_of_others_are_not_signed_out() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let mut bob = signed_in(&app, BOB).await;
    let device = session_id(&mut bob).await;
    location(&browser.send(form("/auth/account/devices/sign-out", &[("device", &device)])).await);
    location(&browser.send(form("/auth/account/devices/sign-out-others", &[])).await);
    page(&bob.get("/auth/account").await, 200);
}

#[tokio::test]
async fn all_other_devices_are_signed_out() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let mut others = [on_another_device(&app, FIREFOX).await, on_another_device(&app, "curl/8").await];
    let response = browser.send(form("/auth/account/devices/sign-out-others", &[])).await;
    assert_eq!(location(&response), "/auth/account?done=others");
    for other in &mut others {
        other.get("/auth/account").await.problem(401, "logged_out");
    }
    let html = page(&browser.get("/auth/account?done=others").await, 200);
    assert!(html.contains("All other devices were signed out."), "{html}");
    assert!(!html.contains("sign-out-others"), "the last device has no such button: {html}");
}

#[tokio::test]
async fn the_present_device_is_signed_out_with_its_cookies() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    let device = session_id(&mut browser).await;
    let response = browser.send(form("/auth/account/devices/sign-out", &[("device", &device)])).await;
    assert_eq!(location(&response), "/auth/sign-in?signed_out");
    assert!(browser.jar.is_empty());
}

#[tokio::test]
async fn unavailable_database_has_a_page_with_a_retry() {
    let app = start(&[]).await;
    let mut browser = signed_in(&app, ANN).await;
    app.break_store().await;
    for (path, fields) in [
        ("devices/sign-out", &[("device", "00000000-0000-0000-0000-000000000001")][..]),
        ("devices/sign-out-others", &[]),
        ("password", &[("current_password", PASSWORD), ("new_password", NEW_PASSWORD)]),
    ] {
        let response = browser.send(form(&format!("/auth/account/{path}"), fields)).await;
        let html = page(&response, 503);
        // Nothing is at the address of these forms for a link to try again.
        assert!(
            html.contains("To send the form again, go back to it") && !html.contains("href=\"\""),
            "{path}: {html}"
        );
    }
    app.repair_store().await;
    page(&browser.get("/auth/account").await, 200);
}

#[tokio::test]
async fn user_without_name_and_admin_are_shown() {
    let app = start(&[]).await;
    let new = NewUser {
        email: ANN.to_owned(),
        name: Some("Ann Lee".to_owned()),
        role: Role::Admin,
        password: PASSWORD.into(),
    };
    app.app.users.create(new).await.unwrap();
    let mut browser = on_another_device(&app, "Browser/1.0").await;
    let html = page(&browser.get("/auth/account").await, 200);
    assert!(html.contains("<bdi>Ann Lee</bdi>") && html.contains("<bdi>admin"), "{html}");
}
