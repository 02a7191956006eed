import sys

from zoft.finetune import main

sys.exit(main())
