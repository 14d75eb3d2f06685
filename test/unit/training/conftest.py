from training_demos import demos as demos
from training_demos import lasting_demos as lasting_demos
from training_demos import one_thread as one_thread
from training_demos import trained as trained
