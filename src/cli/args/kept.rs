//! Commands about what is kept: artifacts, tags, secrets, caches.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::super::duration::Span;
use super::{ArtifactStoreArgs, ListArgs, PruneImagesArgs, TalkArgs};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ArtifactsCommand {
    /// List what a run saved.
    Ls(ArtifactsLsArgs),
    /// Copy what a run saved to a directory.
    Cp(ArtifactsCpArgs),
    /// Remove what runs saved; the runs themselves stay.
    Rm(ArtifactsRmArgs),
    /// Save what could not be saved when a run ended.
    Save(ArtifactsSaveArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ArtifactsLsArgs {
    /// Which run.
    #[arg(value_name = "RUN|:TAG")]
    pub(in crate::cli) run: String,
    #[command(flatten)]
    pub(in crate::cli) store: ArtifactStoreArgs,
    #[command(flatten)]
    pub(in crate::cli) list: ListArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ArtifactsRmArgs {
    /// Which runs.
    #[arg(required = true, value_name = "RUN|:TAG")]
    pub(in crate::cli) runs: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) store: ArtifactStoreArgs,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ArtifactsCpArgs {
    /// Which run, and below it which path.
    #[arg(value_name = "RUN|:TAG[/PATH]")]
    pub(in crate::cli) source: String,
    /// Directory to copy into; made when missing.
    pub(in crate::cli) destination: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) store: ArtifactStoreArgs,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ArtifactsSaveArgs {
    /// Which run.
    #[arg(value_name = "RUN|:TAG")]
    pub(in crate::cli) run: String,
    /// Who owns the saved files that root wrote in the container [default: whoever called sudo].
    #[arg(long, value_name = "UID[:GID]")]
    pub(in crate::cli) artifact_owner: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TagsCommand {
    /// List the tags.
    List(ListArgs),
    /// Give a run a tag, which another run may have had until now.
    Add(TagsAddArgs),
    /// Take tags away; the runs stay.
    Delete(TagsDeleteArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TagsAddArgs {
    /// The tag.
    pub(in crate::cli) tag: String,
    /// Which run.
    #[arg(value_name = "RUN|:TAG")]
    pub(in crate::cli) run: String,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TagsDeleteArgs {
    /// The tags.
    #[arg(required = true, value_name = "TAG")]
    pub(in crate::cli) tags: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SecretsCommand {
    /// Keep a secret; its value is read from standard input.
    Add(SecretsAddArgs),
    /// List names and dates, never values.
    List(ListArgs),
    /// Forget secrets.
    Delete(SecretsDeleteArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SecretsAddArgs {
    /// Its name, which can be that of a variable.
    pub(in crate::cli) name: String,
    // Only to be refused with the reason.
    #[arg(hide = true)]
    pub(in crate::cli) value: Option<String>,
    /// Take the value from a file, as it stands; without this and `--env` a line break at its end is left out.
    #[arg(long, value_name = "FILE", conflicts_with = "env")]
    pub(in crate::cli) file: Option<PathBuf>,
    /// Take the value from a variable of the environment.
    #[arg(long, value_name = "VARIABLE")]
    pub(in crate::cli) env: Option<String>,
    /// Replace a secret of that name.
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SecretsDeleteArgs {
    /// Their names.
    #[arg(required = true, value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PruneCommand {
    /// Remove ended runs (record, log, artifacts) that have no tag and that no run uses.
    Runs(PruneArgs),
    /// Remove caches that no run uses.
    Cache(PruneArgs),
    /// Remove images without a name, and content that nothing reaches; with `--all` every image that no run needs.
    Images(PruneImagesArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArgs {
    /// Only what ended, or was last used, longer ago than this, e.g. `12h`, `7d`.
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) older_than: Option<Span>,
    /// Only say what would be removed.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}
