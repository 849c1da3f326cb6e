//! Several tabs: restored at once, and told of a sign-in in another one.

use fantoccini::wd::WindowHandle;

use crate::chromium::Chromium;
use crate::site::{EMAIL, Site, submit_sign_in};
use crate::support::app::{IDLE_TTL, PASSWORD};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tabs_restored_after_expiry_show_their_pages() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    site.app.expire();
    site.record.take();
    let addresses = addresses(&site);
    let tabs = restore(&browser, &addresses).await;
    wait_for_pages(&browser, &tabs, &addresses).await;
    let requests = site.record.all();
    assert!(requests.iter().all(|request| request.status == 200), "{requests:#?}");
    assert!(requests.iter().any(|request| request.event.as_deref() == Some("rotated")), "{requests:#?}");
}

/// One sign-in is enough for all tabs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tabs_restored_after_the_end_of_the_session_show_their_pages() {
    let Some((site, browser)) = Site::start().await else { return };
    site.sign_in(&browser).await;
    site.app.clock.advance(IDLE_TTL * 2);
    site.record.take();
    let addresses = addresses(&site);
    let tabs = restore(&browser, &addresses).await;
    for tab in &tabs {
        browser.switch_to(tab.clone()).await;
        browser.wait_for_path("/auth/sign-in").await;
    }
    browser.switch_to(tabs[4].clone()).await;
    submit_sign_in(&browser, PASSWORD).await;
    wait_for_pages(&browser, &tabs, &addresses).await;
    let requests = site.record.all();
    let forms = requests.iter().filter(|request| request.method == "POST").count();
    assert_eq!(forms, 1, "{requests:#?}");
    let sign_ins = requests.iter().filter(|request| request.target.starts_with("/auth/sign-in?")).count();
    assert!(sign_ins <= 2 * TABS, "a loop: {requests:#?}");
    let errors = requests.iter().filter(|request| request.status >= 400);
    // Tabs ask whether another one has signed in.
    let errors: Vec<_> = errors.filter(|request| request.target != "/auth/session").collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Returns the addresses of the tabs, each with a query and a fragment of its own, in the order of their text.
fn addresses(site: &Site) -> Vec<String> {
    (0..TABS).map(|number| site.at(&format!("/reports/?tab={number}&q=%20#part-{number}"))).collect()
}

/// Opens all addresses at once, each in a tab of its own, as a browser that restores its tabs does.
async fn restore(browser: &Chromium, addresses: &[String]) -> Vec<WindowHandle> {
    let first = browser.client.window().await.unwrap();
    for address in addresses {
        browser.open_in_new_tab(address).await;
    }
    let tabs = browser.client.windows().await.unwrap();
    let tabs: Vec<_> = tabs.into_iter().filter(|tab| *tab != first).collect();
    assert_eq!(tabs.len(), addresses.len());
    tabs
}

/// Waits until each tab shows another one of the addresses.
async fn wait_for_pages(browser: &Chromium, tabs: &[WindowHandle], addresses: &[String]) {
    let mut shown = Vec::new();
    for tab in tabs {
        browser.switch_to(tab.clone()).await;
        browser.wait_for_path("/reports/").await;
        assert_eq!(browser.text("#user").await, EMAIL);
        shown.push(browser.url().await.to_string());
    }
    shown.sort();
    assert_eq!(shown, addresses);
}

const TABS: usize = 10;
