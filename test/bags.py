"""Bags written for tests: streams that are functions of their stamp, in every format."""

import cv2
import numpy as np
from fakes import ACTIONS, MS, START, STATES, STEP, image_at, state_at
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from diffusion_policy_rt.ros.bag import TYPES

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
JOINTS, TRAJECTORY = 'sensor_msgs/msg/JointState', 'trajectory_msgs/msg/JointTrajectory'
FRONT, WRIST = '/camera/front/image_raw', '/camera/wrist/image_raw/compressed'
STATE, ACTION = '/joint_states', '/policy/action'
LATE_NS = 3 * MS
"""How long after its stamp each message is recorded."""
TYPES1 = get_typestore(Stores.ROS1_NOETIC)


def make(types, kind, **fields):
    return types.types[kind](**fields)


def header(types, stamp):
    more = {'seq': 0} if types is TYPES1 else {}
    time = make(types, 'builtin_interfaces/msg/Time', sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make(types, 'std_msgs/msg/Header', stamp=time, frame_id='', **more)


def image(types, stamp, camera='front', shape=(12, 16)):
    data = image_at(camera, stamp, shape).reshape(-1)
    return make(types, IMAGE, header=header(types, stamp), height=shape[0], width=shape[1],
                encoding='rgb8', is_bigendian=0, step=3 * shape[1], data=data)


def png(types, stamp, camera='wrist', shape=(12, 16)):
    bgr = cv2.cvtColor(image_at(camera, stamp, shape), cv2.COLOR_RGB2BGR)
    return make(types, COMPRESSED, header=header(types, stamp), format='png',
                data=cv2.imencode('.png', bgr)[1].reshape(-1))


def joints(types, stamp, names=STATES, position=None):
    position = state_at(stamp) if position is None else position
    return make(types, JOINTS, header=header(types, stamp), name=list(names),
                position=np.asarray(position, float), velocity=np.zeros(0), effort=np.zeros(0))


def operated(stamp):
    """Return what the operator did at this stamp, float64 [A]."""
    t = (stamp - START) / 1e9
    return np.array([np.cos(2 * t), 0.3 * np.sin(3 * t)])


def action(types, stamp):
    point = make(types, 'trajectory_msgs/msg/JointTrajectoryPoint', positions=operated(stamp),
                 velocities=np.zeros(0), accelerations=np.zeros(0), effort=np.zeros(0),
                 time_from_start=make(types, 'builtin_interfaces/msg/Duration', sec=0, nanosec=0))
    return make(types, TRAJECTORY, header=header(types, 0), joint_names=list(ACTIONS),
                points=[point])


def messages(ticks=30, types=TYPES, wrist=False, without=(), start=START):
    """Return (topic, type, recorded at, message) of a short run at 10 Hz."""
    found = []
    for k in range(ticks):
        stamp = start + k * STEP
        found += [(FRONT, IMAGE, stamp + LATE_NS, image(types, stamp)),
                  (STATE, JOINTS, stamp + LATE_NS, joints(types, stamp)),
                  (ACTION, TRAJECTORY, stamp + 5 * MS, action(types, stamp))]
        if wrist:
            found.append((WRIST, COMPRESSED, stamp + LATE_NS, png(types, stamp)))
    return [m for m in found if m[0] not in without]


def write(path, found, storage='mcap', compression=None):
    """Write messages into a bag: `mcap`, `sqlite3` or `ros1`; return its path."""
    if storage == 'ros1':
        return write1(path.with_suffix('.bag'), found)
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    if compression:
        writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        topics = {}
        for topic, kind, at, message in found:
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(topics[topic], at, TYPES.serialize_cdr(message, kind))
    return path


def write1(path, found):
    with Writer1(path) as writer:
        topics = {}
        for topic, kind, at, message in found:
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=TYPES1)
            writer.write(topics[topic], at, TYPES1.serialize_ros1(message, kind))
    return path
