"""Files and folders that other programs leave among pictures. They are recognised by name and never read."""

from __future__ import annotations

import re
from fnmatch import translate

KINDS: dict[str, tuple[str, ...]] = {  # kind, as messages name it -> patterns of names, in lower case
    "thumbnails and metadata of a NAS": (
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", ".@__thumb"),
        *("@sharebin", "@synoeastream", "synofile_thumb_*", "synophoto_thumb_*", ".appledouble", ".appledb"),
        *(".appledesktop", "._*", "network trash folder", "temporary items", ".streams", ".snapshot"),
    ),
    "files of the operating system": (
        *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"),
        *("system volume information", ".ds_store", ".localized", ".spotlight-v100", ".trashes"),
        *(".fseventsd", ".temporaryitems", ".documentrevisions-v100", ".apdisk", "icon\r", "lost+found"),
        *(".directory", ".trash", ".trash-*", ".hidden", ".thumbnails", ".nfs*", ".fuse_hidden*", ".xdg-volume-info"),
    ),
    "files of picture viewers": (
        *(".picasa.ini", "picasa.ini", ".picasaoriginals", "pspbrwse.jbf", ".comments", "albumart*.db"),
        *(".bridgesort", ".bridgecache", ".bridgecachet", ".dtrash", ".xvpics"),
    ),
    "files of editors and notebooks": (
        *(".ipynb_checkpoints", "__pycache__", "*~", "*.swp", "*.swo", "*.swn", "*.bak", "*.orig", "*.tmp", "~$*"),
        *(".#*", "#*#", ".~lock.*", ".idea", ".vscode", "*.code-workspace"),
    ),
    "files of version control": (
        *(".git", ".gitignore", ".gitattributes", ".gitkeep", ".keep", ".gitmodules", ".gitannex", ".annex", ".hg"),
        *(".hgignore", ".svn", ".dvc", ".dvcignore", "*.dvc", "dvc.yaml", "dvc.lock", ".datalad"),
    ),
    "leftovers of archives and downloads": (
        *("__macosx", "*.part", "*.partial", "*.crdownload", "*.aria2", "*.download", "*.rsync-partial", ".rsync-*"),
        *(".~tmp~", ".sync", ".stfolder", ".stversions", ".stignore", ".dropbox", ".dropbox.cache", "_gsdata_"),
    ),
    "hidden files": (".*",),
}
DATA = "files about the data"
ABOVE: dict[str, tuple[str, ...]] = {  # ignored beside class folders or parts, but not among the pictures of a class
    DATA: (
        *("readme*", "license*", "licence*", "copying*", "citation*", "notice*", "changelog*", "authors*"),
        *("*.txt", "*.csv", "*.tsv", "*.json", "*.jsonl", "*.xml", "*.yaml", "*.yml", "*.toml", "*.md", "*.rst"),
        *("*.html", "*.pdf", "*.mat", "*.xlsx", "*.md5", "*.sha1", "*.sha256", "*.sha512", "*sums", "*.lst"),
        *("*.names", "*.log", "*.py", "*.ipynb", "*.sh"),
    ),
    "leftovers of archives and downloads": ("*.zip", "*.tar", "*.tar.*", "*.tgz", "*.7z", "*.rar", "*.torrent"),
}


def kind_of(name: str, above: bool = False) -> str | None:
    """The kind of clutter that a file or folder of this name is; None if it is none.

    Args:
        above: whether it is a file beside class folders or parts, where files about the data are clutter too.
    """
    name = name.lower()
    found = ALWAYS.fullmatch(name) or (ABOVE_ALWAYS.fullmatch(name) if above else None)
    return None if found is None else NAMES[found.lastgroup or ""]


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is ignored wherever it lies."""
    return kind_of(name) is not None


def replaced(name: str) -> tuple[str, str] | None:
    """For the placeholder of a file that has not been downloaded: the name of that file and the reason.

    Otherwise None.
    """
    if name.endswith(".dvc") and name != ".dvc":
        return name.removesuffix(".dvc"), "only DVC's pointer is there: run 'dvc pull'"
    if name.startswith(".") and name.endswith(".icloud") and len(name) > len("..icloud"):
        return name[1:].removesuffix(".icloud"), "not downloaded from iCloud"
    return None


def _pattern(kinds: dict[str, tuple[str, ...]]) -> re.Pattern[str]:
    """One regular expression for all names, since a data set may have a million files."""
    return re.compile(
        "|".join(f"(?P<{_group(kind)}>{'|'.join(map(translate, names))})" for kind, names in kinds.items())
    )


def _group(kind: str) -> str:
    return re.sub(r"\W", "_", kind)


ALWAYS, ABOVE_ALWAYS = _pattern(KINDS), _pattern(ABOVE)
NAMES = {_group(kind): kind for kind in KINDS | ABOVE}
