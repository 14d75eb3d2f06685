from training_demos import demos as demos
from training_demos import one_thread as one_thread
