"""A study whose names and messages are markup, formulas and very long words: data of strangers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from study_folder import write_study

from ssprompt_platform.fit_files import load_shown, save_shown
from ssprompt_platform.report.gather import StudyData, gather
from ssprompt_platform.storage import read_json, write_json

SCRIPT = "<script>document.title='taken over'</script>"
IMAGE = '"><img src=x onerror="document.title=1">'
LONG = "endless" * 40
CLASSES = [SCRIPT, r"$\frac{x^$ & <b>bold</b>", "_hidden", LONG]
REMARK = f"Selected on {SCRIPT} the validation split."
MISSING = "</ul></div><style>*{display:none}</style>"


def hostile_study(root: Path) -> StudyData:
    """Write the study and read it as the report does."""
    methods = ("zero_shot", "linear_probe", "spa")
    failed = [("spa", 4, 1)]
    folder = write_study(
        root, "hostile", methods=methods, trials=6, remarks=[REMARK], failed=failed
    )
    record = read_json(folder.record)
    record["config"]["study"]["name"] = IMAGE
    record["facts"] |= {"classes": CLASSES, "data": LONG, "model": SCRIPT}
    record["protocol"] = [SCRIPT, LONG]
    record["extensions"] = [
        {
            "at": "2026-03-02T10:00:00+00:00",
            "changes": {"search.trials": [4, 6], SCRIPT: [None, IMAGE]},
            "after_scores": True,
        }
    ]
    write_json(folder.record, record)
    for path in folder.fits.glob("*.failed.json"):
        write_json(path, {**read_json(path), "cause": f"{SCRIPT} </script> {LONG}"})
    for key in gather(folder).fits:
        shown = load_shown(folder.fits, key)
        if shown:
            named = [replace(i, image_id=f"$x^{IMAGE}{n}{LONG}") for n, i in enumerate(shown)]
            save_shown(folder.fits, key, named)
    data = gather(folder)
    trials = [
        replace(trial, cause=f"{IMAGE} $\\alpha {LONG}") if trial.state == "failed" else trial
        for trial in data.trials
    ]
    return replace(data, trials=trials, missing=[MISSING], finished=False)
