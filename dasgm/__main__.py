"""python -m dasgm"""

from dasgm.cli.main import main

raise SystemExit(main())
