//! A query's pages.

use serde_json::{Value, json};

use super::{Harness, channel, create, id, strict};
use roundtrip_store::{
    ChannelPage, Cursor, Direction, Filter, MAX_PAGE_BYTES, PageRequest, Sort, SortField,
};

/// Every order.
const SORTS: [Sort; 4] = [
    sort(SortField::ChannelId, Direction::Ascending),
    sort(SortField::ChannelId, Direction::Descending),
    sort(SortField::ChannelName, Direction::Ascending),
    sort(SortField::ChannelName, Direction::Descending),
];

/// Names and ids whose byte order differs from a dictionary's. Some names are equal, some empty.
const NAMED: [(&str, &str); 12] = [
    ("a", "b"),
    ("B", "Zebra"),
    ("c", "zebra"),
    ("d", "zebra"),
    ("e", "é"),
    ("f", ""),
    ("_", ""),
    ("10", "雪"),
    ("9", "🚀"),
    ("~", "z\u{0}"),
    ("-", "z"),
    ("g.h", "Zebra"),
];

/// Ids of foreign documents without a name.
const NAMELESS: [&str; 2] = ["0", "h"];

const fn sort(field: SortField, direction: Direction) -> Sort {
    Sort { field, direction }
}

async fn fill(harness: &impl Harness) {
    for (id, name) in NAMED {
        let document =
            json!({"channel_id": id, "channel_name": name, "channel_tags": ["all", "named"]});
        create(&**harness.store(), &channel(document)).await;
    }
    for id in NAMELESS {
        harness
            .insert_foreign(json!({"channel_id": id, "channel_tags": ["all"]}))
            .await;
    }
}

/// The ids in the expected order.
fn in_order(sort: Sort) -> Vec<&'static str> {
    let mut all: Vec<(&str, &str)> = NAMED
        .into_iter()
        .chain(NAMELESS.map(|id| (id, "")))
        .map(|(id, name)| match sort.field {
            SortField::ChannelId => (id, id),
            SortField::ChannelName => (name, id),
        })
        .collect();
    all.sort_unstable();
    if sort.direction == Direction::Descending {
        all.reverse();
    }
    all.into_iter().map(|(_, id)| id).collect()
}

/// Matches what [`fill`] creates. Some channels have both tags.
fn by_tags() -> Value {
    json!({"channel_tags": {"$in": ["all", "named"]}})
}

async fn page(
    harness: &impl Harness,
    limit: u16,
    sort: Sort,
    cursor: Option<Cursor>,
) -> ChannelPage {
    page_of(harness, &by_tags(), limit, sort, cursor).await
}

async fn page_of(
    harness: &impl Harness,
    filter: &Value,
    limit: u16,
    sort: Sort,
    cursor: Option<Cursor>,
) -> ChannelPage {
    let filter = Filter::parse(filter).expect("a filter");
    let request = PageRequest {
        limit,
        sort,
        cursor,
    };
    harness
        .store()
        .query(&filter, &request)
        .await
        .expect("a page")
}

fn ids(page: &ChannelPage) -> impl Iterator<Item = String> {
    page.channels
        .iter()
        .map(|channel| channel.channel_id.to_string())
}

/// In every order, for any page length, whatever the index that finds them.
pub(crate) async fn pages_hold_every_channel_once_in_order(harness: &impl Harness) {
    fill(harness).await;
    create(&**harness.store(), &channel(json!({"channel_id": "other"}))).await;
    let by_ids = json!({"channel_id": {"$in": in_order(Sort::default())}});
    let by_range = json!({"channel_id": {"$gte": "-", "$ne": "other"}});
    let filters = [by_tags(), by_ids, by_range];
    for (filter, sort) in filters
        .iter()
        .flat_map(|filter| SORTS.map(|sort| (filter, sort)))
    {
        for limit in [1, 3, 1000] {
            let mut seen = Vec::new();
            let mut cursor = None;
            loop {
                let page = page_of(harness, filter, limit, sort, cursor).await;
                assert!(page.channels.len() <= usize::from(limit));
                seen.extend(ids(&page));
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, in_order(sort), "{filter}, {sort:?} by {limit}");
        }
    }
}

/// A page with the last channel has no cursor.
pub(crate) async fn a_full_last_page_has_no_next(harness: &impl Harness) {
    fill(harness).await;
    let all = u16::try_from(NAMED.len() + NAMELESS.len()).expect("a few");
    for sort in SORTS {
        assert_eq!(page(harness, all, sort, None).await.next, None, "{sort:?}");
        let next = page(harness, all - 1, sort, None).await.next;
        assert!(next.is_some(), "{sort:?}");
        assert_eq!(page(harness, 1, sort, next).await.next, None, "{sort:?}");
    }
}

/// Creating or deleting channels between two pages neither hides nor repeats others.
pub(crate) async fn pages_go_on_though_channels_come_and_go(harness: &impl Harness) {
    fill(harness).await;
    let store = harness.store();
    for sort in SORTS {
        let expected = in_order(sort);
        let first = page(harness, 4, sort, None).await;
        // The last channel of the page is deleted, and a new one is created far before it.
        let last = first.channels[3].clone();
        store.delete(&last.channel_id, None).await.expect("deleted");
        let before = match sort.direction {
            Direction::Ascending => {
                json!({"channel_id": "--", "channel_name": "", "channel_tags": ["all"]})
            }
            Direction::Descending => {
                json!({"channel_id": "~~", "channel_name": "\u{10ffff}", "channel_tags": ["all"]})
            }
        };
        create(&**store, &channel(before.clone())).await;
        let rest = page(harness, 1000, sort, first.next.clone()).await;
        let seen: Vec<_> = ids(&first).chain(ids(&rest)).collect();
        assert_eq!(seen, expected, "{sort:?}");

        create(&**store, &strict(&last)).await;
        let before = before["channel_id"].as_str().expect("an id");
        store.delete(&id(before), None).await.expect("deleted");
    }
}

/// Pages are bounded in bytes too. A channel larger than a page has a page of its own.
pub(crate) async fn pages_of_large_channels_end_early_and_list_each_once(harness: &impl Harness) {
    let store = &**harness.store();
    for (at, kilobytes) in [900, 1, 900, 900, 900, 900, 1, 900].into_iter().enumerate() {
        let metadata = json!({"blob": "x".repeat(kilobytes << 10)});
        let name = if at % 2 == 0 { "" } else { "named" };
        let document = json!({
            "channel_id": format!("{at}"), "channel_name": name, "channel_metadata": metadata,
        });
        create(store, &channel(document)).await;
    }
    let foreign = json!({"blob": "x".repeat(MAX_PAGE_BYTES + 1)});
    harness
        .insert_foreign(json!({"channel_id": "9", "channel_metadata": foreign}))
        .await;
    let all = Filter::parse(&json!({})).expect("a filter");
    let ids_of_all = ["0", "1", "2", "3", "4", "5", "6", "7", "9"];
    let own = all.clone().within(&ids_of_all.map(id));
    for (filter, sort) in [&all, &own]
        .into_iter()
        .flat_map(|one| SORTS.map(|sort| (one, sort)))
    {
        let mut seen = Vec::new();
        let mut request = PageRequest {
            limit: 1000,
            sort,
            cursor: None,
        };
        let mut pages = 0;
        loop {
            let page = store.query(filter, &request).await.expect("a page");
            let bytes: Vec<usize> = page
                .channels
                .iter()
                .map(|channel| serde_json::to_vec(channel).expect("JSON").len())
                .collect();
            let all_but_one = bytes.iter().skip(1).sum::<usize>();
            assert!(all_but_one <= MAX_PAGE_BYTES, "{sort:?}: {bytes:?}");
            seen.extend(ids(&page));
            pages += 1;
            request.cursor = page.next;
            if request.cursor.is_none() {
                break;
            }
        }
        assert!(pages > 2, "{pages} for {sort:?}");
        seen.sort();
        assert_eq!(seen, ids_of_all, "{sort:?}");
    }
}
