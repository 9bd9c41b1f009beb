//! The suite that every engine must pass.
//!
//! Invariant: there is one list of cases, in `store_contract!`, and an
//! engine runs all of them.

mod foreign;
mod ledger_answers;
mod ledger_conversation;
mod ledger_dead;
mod ledger_erased_answers;
mod ledger_erasures;
mod ledger_idempotency;
mod ledger_inbound;
mod ledger_journal;
mod ledger_kept_answers;
mod ledger_keys;
mod ledger_messages;
mod ledger_replays;
mod ledger_session_events;
mod ledger_unanswered;
mod ledger_waiting;
mod pages;
mod pause;
mod query;
mod samples;
mod secrets;
mod waiting_channels;
mod waiting_summary;
mod write;

use std::panic::{AssertUnwindSafe, resume_unwind};

use async_trait::async_trait;
use futures::FutureExt;
use roundtrip_model::{ApiKeyId, Channel, ChannelId, ChannelPatch, StoredChannel};
use serde_json::Value;

pub(crate) use foreign::*;
pub(crate) use ledger_answers::*;
pub(crate) use ledger_conversation::*;
pub(crate) use ledger_dead::*;
pub(crate) use ledger_erased_answers::*;
pub(crate) use ledger_erasures::*;
pub(crate) use ledger_idempotency::*;
pub(crate) use ledger_inbound::*;
pub(crate) use ledger_journal::*;
pub(crate) use ledger_kept_answers::*;
pub(crate) use ledger_keys::*;
pub(crate) use ledger_messages::*;
pub(crate) use ledger_replays::*;
pub(crate) use ledger_session_events::*;
pub(crate) use ledger_unanswered::*;
pub(crate) use ledger_waiting::*;
pub(crate) use pages::*;
pub(crate) use pause::*;
pub(crate) use query::*;
pub(crate) use secrets::*;
pub(crate) use waiting_channels::*;
pub(crate) use waiting_summary::*;
pub(crate) use write::*;

use roundtrip_store::{ChannelError, Channels, SharedStore};

/// An engine under test. Each case gets an empty store, and access to its data as another client of
/// the database.
#[async_trait]
pub(crate) trait Harness: Send + Sync + Sized {
    /// An empty store that no other case uses.
    async fn start() -> Self;

    /// The store.
    fn store(&self) -> &SharedStore;

    /// Another store over the same data, as in a second process.
    async fn second_store(&self) -> SharedStore;

    /// Writes a document as another client would.
    async fn insert_foreign(&self, document: Value);

    /// The whole stored document, without keys that the database adds.
    async fn stored(&self, id: &str) -> Value;

    /// Copies a stored key under other ids, bypassing the store. `active` copies are unchanged;
    /// `ended` copies ended when they were made.
    async fn copy_key(&self, id: &ApiKeyId, active: u16, ended: u16);

    /// Whether the text is found anywhere in the engine's files or collections.
    async fn holds(&self, text: &str) -> bool;

    /// Removes the case's data.
    async fn stop(self);
}

/// Runs a case on a store of its own. Cleans up even if the case fails.
pub(crate) async fn run<H: Harness>(case: impl AsyncFnOnce(&H)) {
    let harness = H::start().await;
    let outcome = AssertUnwindSafe(case(&harness)).catch_unwind().await;
    harness.stop().await;
    if let Err(failure) = outcome {
        resume_unwind(failure);
    }
}

/// Declares a test for each case, for the engine that the harness starts.
macro_rules! store_contract {
    ($harness:ty) => {
        $crate::contract::store::store_contract! { @each $harness;
            a_created_channel_reads_back_unchanged,
            a_taken_id_is_not_created_again,
            of_many_creates_of_one_id_one_wins,
            an_unknown_id_is_not_found_anywhere,
            an_update_replaces_only_its_fields,
            an_update_of_nothing_answers_with_the_channel,
            metadata_is_replaced_whole,
            keys_keep_their_order,
            numbers_keep_their_kind,
            the_version_changes_with_the_content_and_only_then,
            a_write_that_expects_another_version_changes_nothing,
            a_write_that_expects_this_version_is_done,
            of_many_updates_of_one_version_one_wins,
            updates_of_different_fields_are_all_kept,
            a_deleted_channel_is_gone_and_its_id_is_free,
            any_text_is_kept,
            a_big_channel_is_kept,
            a_value_that_cannot_be_stored_is_refused,
            an_integer_that_would_be_rounded_is_refused,
            doubles_are_kept_to_the_last_digit,
            two_stores_see_each_others_writes,
            pausing_and_resuming_change_nothing_else,
            a_pause_outlasts_new_metadata_that_does_not_name_it,
            a_pause_and_other_changes_at_once_are_all_kept,
            a_pause_for_an_earlier_channel_does_not_hit_a_later_one,
            a_recreated_channel_is_another_channel,
            a_store_that_answers_is_pinged,
            a_foreign_document_is_a_channel,
            a_foreign_documents_own_fields_stay,
            a_foreign_document_may_lack_all_but_its_id,
            a_field_of_an_unexpected_type_is_returned_unchanged,
            a_field_of_another_type_does_not_stop_deliveries,
            names_that_are_no_texts_sort_as_empty_ones,
            metadata_that_is_no_object_gives_no_endpoint_and_is_kept,
            a_document_without_an_id_is_passed_over,
            a_foreign_change_counts_as_another_version,
            a_query_answers_by_its_filter,
            a_query_finds_names_and_tags_of_any_form,
            a_query_finds_a_channel_by_its_present_name_and_tags,
            a_page_ends_with_the_budget_and_the_next_goes_on,
            only_candidates_use_up_a_budget,
            a_query_tells_missing_fields_from_empty_ones,
            a_query_within_channels_finds_no_others,
            pages_within_channels_list_each_channel_once,
            pages_hold_every_channel_once_in_order,
            a_full_last_page_has_no_next,
            pages_go_on_though_channels_come_and_go,
            pages_of_large_channels_end_early_and_list_each_once,
            secrets_are_kept_as_they_were,
            secrets_replace_those_that_were_seen,
            of_many_who_replace_secrets_one_wins,
            a_deleted_channels_secrets_are_gone,
            a_channel_that_stays_keeps_its_secrets,
            secrets_are_no_part_of_the_channel,
            an_answers_content_is_stored_beside_the_timeline,
            a_repeated_answer_is_one_with_its_first_time,
            of_many_answers_the_latest_are_read,
            an_answer_is_found_by_its_id_or_as_the_first,
            the_states_of_messages_are_read_by_their_ids,
            a_conversation_is_in_the_order_of_time,
            a_conversation_shows_what_was_said_first,
            an_inbound_message_has_its_own_timeline,
            messages_are_found_by_their_kind,
            a_conversation_has_only_the_callers_channels,
            a_long_conversation_is_read_in_pages_of_bounded_bytes,
            answers_inbound_messages_and_ends_are_events,
            an_event_that_is_stored_late_is_found_by_continuing,
            an_event_that_is_stored_again_keeps_its_place,
            a_follower_gets_only_the_callers_channels,
            an_event_of_erased_contents_says_so,
            an_answer_without_a_message_is_kept_with_what_became_of_it,
            kept_answers_are_found_by_their_filter,
            pages_hold_every_kept_answer_once_in_the_order_of_time,
            pages_of_large_kept_answers_end_early,
            a_timeline_is_what_was_recorded,
            entries_in_any_order_and_twice_lead_to_the_same,
            the_state_is_the_greatest_position,
            of_many_records_of_the_same_entries_one_counts,
            entries_of_many_messages_are_recorded_in_one_call,
            entries_of_one_time_stand_by_their_ids,
            a_long_timeline_shows_its_beginning_and_its_end,
            content_that_arrives_last_is_stored,
            an_unknown_message_has_no_record,
            the_oldest_message_of_a_state_is_found,
            a_delivered_message_is_unanswered_from_its_time_on,
            the_order_of_entries_does_not_decide_whether_an_answer_is_due,
            an_overdue_entry_that_is_made_twice_is_one,
            the_time_that_a_producer_gave_for_an_answer_is_kept,
            messages_are_found_by_their_filter,
            messages_that_their_channel_took_are_found_together,
            a_time_begins_with_since_and_ends_before_until,
            a_listed_message_is_the_message,
            pages_hold_every_message_once_while_new_ones_come,
            pages_within_channels_list_each_message_once,
            pages_of_large_messages_end_early_and_list_each_once,
            a_dead_letter_reads_back_unchanged,
            a_dead_letter_inserted_twice_is_stored_once,
            dead_letters_are_found_by_their_filter,
            a_purge_removes_what_its_filter_finds,
            a_purge_of_everything_leaves_nothing,
            a_replayed_dead_letter_is_no_longer_listed,
            the_letters_of_a_replay_are_counted,
            pages_hold_every_letter_once,
            pages_of_large_dead_letters_end_early_and_list_each_once,
            an_erased_session_leaves_no_byte_of_its_contents,
            an_erased_session_keeps_its_ids_and_states,
            what_is_recorded_after_an_erasure_has_no_contents,
            an_erasure_that_was_interrupted_is_finished_by_another_process,
            a_request_during_an_erasure_is_not_forgotten,
            contents_of_messages_and_dead_letters_are_erased_by_their_ids,
            an_erased_answer_without_a_message_leaves_no_byte_of_its_contents,
            contents_of_answers_without_a_message_are_erased_by_their_ids,
            a_dead_letter_of_a_replayed_answer_is_erased_by_the_answers_own_time,
            a_replay_reads_back_unchanged,
            a_replay_is_claimed_by_one,
            a_leased_replay_is_not_claimed,
            a_lease_that_ran_out_lets_another_go_on,
            only_the_owner_advances_a_replay,
            a_cancelled_replay_stops,
            an_ended_replay_does_not_change,
            replays_take_turns,
            a_key_has_a_few_replays_running_and_no_more,
            replays_are_listed_the_latest_first,
            replays_of_other_channels_are_not_listed,
            a_key_gets_its_first_answer,
            a_key_with_another_fingerprint_is_a_mismatch,
            a_released_key_is_free,
            an_expired_reservation_is_taken_over,
            a_key_is_settled_by_its_own_message,
            only_one_of_many_requests_reserves_a_key,
            a_waiting_message_reads_back_unchanged,
            a_message_that_is_put_again_is_unchanged,
            a_later_attempt_replaces_an_earlier_one_only,
            of_many_puts_of_one_message_the_latest_attempt_stays,
            due_messages_come_by_their_due_times_and_then_ids,
            a_message_is_not_due_before_its_time,
            expired_messages_come_by_their_expiries_and_then_ids,
            pages_of_large_waiting_messages_end_early,
            a_settled_message_is_gone_or_due_later,
            a_settlement_of_a_replaced_message_changes_nothing,
            a_channels_messages_are_made_due,
            one_message_is_made_due,
            a_summary_counts_a_channels_messages_by_reason,
            a_summary_counts_a_changed_message_by_its_present_reason,
            a_summary_of_many_messages_counts_all_or_says_that_more_wait,
            a_channel_has_one_owner_at_a_time,
            a_lease_that_ended_lets_another_claim_the_channel,
            channels_that_waited_longest_are_claimed_first,
            a_released_channel_is_looked_at_in_time,
            a_channel_is_looked_at_when_a_message_expires,
            a_channel_without_messages_is_not_looked_at,
            a_put_has_its_channel_looked_at,
            a_put_during_a_lease_outlasts_it,
            a_channel_released_with_a_time_is_left_alone_while_messages_are_put,
            a_channel_is_held_until_the_time_that_it_was_released_with,
            a_put_counts_again_after_the_channel_was_claimed,
            a_wake_reaches_a_channel_that_was_released_with_a_time,
            an_expiry_reaches_a_channel_that_was_released_with_a_time,
            a_wake_has_its_channel_looked_at,
            a_wake_during_a_lease_outlasts_it,
            puts_and_releases_at_once_lose_no_message,
            an_api_key_reads_back_unchanged,
            a_revoked_key_is_active_no_more,
            a_key_that_expires_is_active_until_then,
            pages_hold_every_key_once,
            no_more_keys_are_active_under_one_than_can_be,
            a_page_of_keys_lists_only_keys_within_bounds,
            no_more_keys_are_active_than_can_be,
        }
    };
    (@each $harness:ty; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                $crate::contract::store::run::<$harness>(async |harness| {
                    $crate::contract::store::$case(harness).await;
                })
                .await;
            }
        )*
    };
}

pub(crate) use store_contract;

fn channel(document: Value) -> Channel {
    serde_json::from_value(document).expect("a channel")
}

fn id(text: &str) -> ChannelId {
    text.parse().expect("a channel id")
}

fn patch(document: Value) -> ChannelPatch {
    serde_json::from_value(document).expect("a patch")
}

/// Creates a channel that must not exist yet.
async fn create(store: &dyn Channels, channel: &Channel) {
    store.create(channel).await.expect("to create the channel");
}

/// The channel as the store has it now.
async fn get(store: &dyn Channels, named: &str) -> Channel {
    let stored = store.get(&id(named)).await.expect("to find it").channel;
    strict(&stored)
}

/// A stored channel whose fields all have the right types.
fn strict(stored: &StoredChannel) -> Channel {
    let json = serde_json::to_value(stored).expect("JSON");
    serde_json::from_value(json).expect("a channel")
}

/// The channel with the patch's fields.
fn patched(mut channel: Channel, patch: ChannelPatch) -> Channel {
    channel.channel_name = patch.channel_name.unwrap_or(channel.channel_name);
    channel.channel_description = patch
        .channel_description
        .unwrap_or(channel.channel_description);
    channel.channel_metadata = patch.channel_metadata.unwrap_or(channel.channel_metadata);
    channel.channel_tags = patch.channel_tags.unwrap_or(channel.channel_tags);
    channel
}

/// Fails unless the error is that there is no such channel.
fn assert_not_found<T: std::fmt::Debug>(answer: &Result<T, ChannelError>) {
    assert!(
        matches!(answer, Err(ChannelError::NotFound(id)) if id.as_str() == "unknown"),
        "{answer:?}"
    );
}

/// Fails unless the error is that the channel has changed.
fn assert_changed<T: std::fmt::Debug>(answer: &Result<T, ChannelError>) {
    assert!(
        matches!(answer, Err(ChannelError::Changed(_))),
        "{answer:?}"
    );
}
