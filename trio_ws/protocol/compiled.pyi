from .pure import Payload as Payload
from .pure import apply_mask as apply_mask
from .pure import pack as pack
from .pure import take_messages as take_messages
from .pure import take_small_frames as take_small_frames
