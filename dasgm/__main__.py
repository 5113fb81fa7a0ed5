"""python -m dasgm"""

from dasgm.cli import main

raise SystemExit(main())
