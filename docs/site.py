"""Hooks of mkdocs: the site has the paths of the repository, so a relative link works on GitHub and on the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/*.md", "experiments/*.md", "launch/**/*.md")
LINKED = (
    "LICENSE",
    "docs/*.css",
    "asyncthink_jax/**/*.py",
    "tests/**/*.py",
    "experiments/**/*.py",
    "experiments/**/*.png",
    "launch/**/*.ipynb",
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings get the anchors that GitHub gives them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of `docs_dir` by those of the repository; keeps what the theme has added."""
    theme = [file for file in files if file.generated_by or not file.abs_src_path.startswith(config.docs_dir)]
    paths = sorted(path for pattern in (*PAGES, *LINKED) for path in ROOT.glob(pattern))
    own = [File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, use_directory_urls=True) for path in paths]
    return Files([*theme, *own])
