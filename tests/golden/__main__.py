"""`python -m tests.golden`: one line per case, a summary, and exit status 1 if a case failed."""

import sys
from collections import Counter

from tests.golden.harness import golden_folder, load_cases, run


def main() -> int:
    results = run(load_cases(golden_folder()))
    for result in results:
        print(result.line())
    counts = Counter(result.outcome for result in results)
    print(
        f"{len(results)} cases: {counts['passed']} passed, {counts['failed']} failed, {counts['not built']} not built"
    )
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
