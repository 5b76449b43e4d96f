package launcher;

import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

import org.elasticsearch.bootstrap.BootstrapInfo;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * Starts one Elasticsearch node from the jars alone.
 *
 * <p>The bootstrap of the stock distribution expects that distribution's files around it. What is
 * left out with it: the entitlements, the native controllers and the checks for production use.
 */
public final class Launcher {
    private Launcher() {}

    public static void main(String[] arguments) throws Exception {
        try {
            start(Path.of(System.getProperty("es.path.home")), Path.of(System.getProperty("es.path.conf")));
        } catch (Throwable fault) {
            // Threads that the node has started would keep a failed process alive.
            fault.printStackTrace();
            System.exit(1);
        }
    }

    private static void start(Path home, Path config) throws Exception {
        BootstrapInfo.init();
        Environment environment = InternalSettingsPreparer.prepareEnvironment(
            Settings.EMPTY, Map.of("path.home", home.toString()), config, () -> "embedded");
        LogConfigurator.registerErrorListener();
        LogConfigurator.setNodeName(Node.NODE_NAME_SETTING.get(environment.settings()));
        LogConfigurator.configure(environment, true);
        PluginsLoader plugins = PluginsLoader.createPluginsLoader(
            PluginsLoader.loadModulesBundles(environment.modulesDir(), false),
            PluginsLoader.loadPluginsBundles(environment.pluginsDir(), false),
            Map.of(),
            // The server lies on the class path, so it has no Java module whose exports count.
            false);
        Node node = new Node(environment, plugins);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(node), "stop-node"));
        node.start();
        // The node's own threads do not keep the process alive; SIGTERM ends it.
        new CountDownLatch(1).await();
    }

    private static void stop(Node node) {
        try {
            node.prepareForClose();
            node.close();
            node.awaitClose(20, TimeUnit.SECONDS);
        } catch (Exception fault) {
            fault.printStackTrace();
        }
    }
}
