//! Installation as people do it: on a node, in an image, in a cluster.

mod docs;
mod image;
mod killed;
mod manifests;
mod node;

use std::time::Duration;

use adit_integration::{trace, trial, trial_within};

fn main() {
    trace::serve();
    adit_integration::main(vec![
        trial("plugins_stand_beside_the_clusters_own_and_answer", node::beside),
        trial("the_reference_is_replaced_and_put_back", node::replaced),
        trial("a_plugin_that_runs_is_replaced_and_runs_on", node::running),
        trial("an_image_gets_the_agent_as_a_service_that_will_start", node::service),
        trial("a_systemd_that_runs_starts_the_agent_and_starts_it_anew_only_when_it_has_changed", node::systemd),
        trial("uninstall_refuses_while_containers_or_tunnels_need_the_plugins", node::needed),
        trial("uninstall_stays_when_it_is_told_to_and_is_in_nobodys_way", node::stays),
        trial("a_dry_run_says_every_step_and_changes_nothing", node::dry_run),
        trial("a_directory_that_cannot_be_written_is_named_and_left_as_it_was", node::refused),
        trial_within(
            "installation_killed_at_any_call_is_finished_by_the_next",
            Duration::from_secs(300),
            killed::install,
        ),
        trial_within("removal_killed_at_any_call_is_finished_by_the_next", Duration::from_secs(300), killed::uninstall),
        trial("the_rendered_manifest_is_that_of_its_parts", manifests::rendered),
        trial("the_daemonset_has_what_the_agent_needs_and_nothing_else", manifests::daemonset),
        trial("both_daemonsets_run_what_the_image_holds", manifests::commands),
        trial("openshift_allows_what_the_daemonset_asks_for", manifests::openshift),
        trial("the_image_is_the_dockerfiles_and_the_same_each_time", image::image),
        trial("the_commands_of_the_guide_do_what_it_says", docs::commands),
        trial("the_network_of_the_guide_attaches_a_pod_by_the_names_that_are_installed", docs::network),
        trial("the_files_that_the_guide_names_exist", docs::files),
    ]);
}
